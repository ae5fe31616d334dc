"""What a check refuses, with a sentence that says why."""

import pytest
import torch
from networks.greys import PLAN, Brightness, Step, brightness, named, noisy
from torch import nn

from perturbify import CheckPlan, check
from perturbify.data.split import MemorySplit
from perturbify.errors import CheckError, InputSizeError, ModelError


class Pair(Brightness):
    def forward(self, x):
        return super().forward(x), x


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, dtype=torch.bfloat16)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Grey(Half):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)


def labelled(*labels):
    split = brightness(len(labels), 0)
    return MemorySplit(split.images, torch.tensor(labels))


REFUSED = {
    "a label that the network has no logit for": (Brightness(), labelled(0, 1, 2), CheckError, "labels up to 2"),
    "more classes than the data": (
        nn.Sequential(Brightness(), nn.Linear(2, 5)),
        named(brightness(4, 4)),
        CheckError,
        "tells 5 classes apart, the data have 2",
    ),
    "fewer classes than the data": (
        Brightness(),
        named(brightness(4, 4), ("dark", "bright", "blinding")),
        CheckError,
        "tells 2 classes apart, the data have 3",
    ),
    "no images": (Brightness(), labelled(), CheckError, "no test images"),
    "no logits": (Pair(), brightness(4, 4), CheckError, "not a classifier"),
    "a map of logits": (Brightness().conv, brightness(4, 4), CheckError, "not a classifier"),
    "another precision": (Half(), brightness(4, 4), CheckError, "does not take 3×6×6 images in float32"),
    "another number of channels": (Grey(), brightness(4, 4), CheckError, "does not take 3×6×6 images"),
    "no gradient": (nn.Sequential(Brightness(), Step()), brightness(4, 4), ModelError, "gives no gradient"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_checked_is_refused(why):
    net, data, error, said = REFUSED[why]
    with pytest.raises(error, match=said):
        check(net, data, PLAN)


def test_a_name_that_the_report_uses_is_refused():
    with pytest.raises(CheckError, match="can be called 'noise off'"):
        check(Brightness(), brightness(4, 4), PLAN, sources={"noise off": Brightness()})


def test_images_of_another_size_are_named():
    small = MemorySplit(torch.zeros(4, 3, 5, 5, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputSizeError, match=r"3×6×6.*this one is 2×5×5.*grain=\"channel\""):
        check(noisy(), small, PLAN)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"images": 0}, {"batch_size": 0}, {"epsilon": 2.0}, {"steps": -1}, {"step_size": -0.1}, {"eot_draws": 0}),
        *({"few": 0}, {"draws": 0}, {"queries": ()}, {"noise": "loud"}, {"attacks": ("pdg",)}, {"restarts": 0}),
    ],
    ids=str,
)
def test_a_plan_out_of_its_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least|epsilon|negative|loud|pdg"):
        CheckPlan(**wrong)
