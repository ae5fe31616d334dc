"""The suite on classifiers whose figures are known beforehand, and on what it must refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import perturbify
from perturbify import CheckPlan, PerturbConfig, check
from perturbify.data import Data
from perturbify.data.split import MemorySplit
from perturbify.errors import CheckError, InputSizeError, ModelError

PLAN = CheckPlan(images=None, epsilon=8 / 255, step_size=4 / 255, steps=4, eot_draws=3, batch_size=64)
FAR, NEAR = 40, 3  # grey levels from the middle; ε is 8
TRIALS = [
    ("clean", "on"),
    ("clean", "off"),
    ("FGSM", "on"),
    ("FGSM", "off"),
    ("PGD-4", "on"),
    ("PGD-4", "off"),
    ("PGD-4 transfer", "off→on"),
    ("EOT-PGD-4", "on"),
    ("EOT-PGD-4", "off"),
]


class Brightness(nn.Module):
    """Calls an image dark (0) or bright (1) by its mean, through a convolution, so that noise has a place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.conv.weight.data = torch.stack([torch.full((3, 1, 1), -20.0), torch.full((3, 1, 1), 20.0)])
        self.conv.bias.data = torch.tensor([30.0, -30.0])

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def brightness(far, near, wrong=0):
    """Images far from the middle and near it, half dark and half bright; ``wrong`` of the far ones are mislabelled."""
    distance = torch.tensor([FAR] * far + [NEAR] * near)
    y = torch.arange(far + near) % 2
    levels = torch.where(y == 1, 128 + distance, 127 - distance).to(torch.uint8)
    y[:wrong] = 1 - y[:wrong]
    return MemorySplit(levels.view(-1, 1, 1, 1).expand(-1, 3, 6, 6).clone(), y)


def noisy(theta=0.25, net=None, **config):
    torch.manual_seed(0)
    net = net or Brightness()
    return perturbify.wrap(net, PerturbConfig(theta_init=theta, **config), example_input=torch.rand(2, 3, 6, 6))


def named(split, classes=("dark", "bright")):
    return Data("greys", split, split, classes, (3, 6, 6), (0.5,) * 3, (0.2,) * 3)


def figures(report):
    return {(r.attack, r.noise): r.correct for r in report.rows}


def without_seconds(report):
    return replace(report, rows=tuple(replace(r, seconds=0.0) for r in report.rows))


def test_a_classifier_of_known_accuracy():
    """40 images that no attack within ε reaches, 10 of them mislabelled, and 20 that every attack turns."""
    report = check(Brightness(), brightness(far=40, near=20, wrong=10), PLAN)
    assert figures(report) == {
        ("clean", "off"): 50,
        ("FGSM", "off"): 30,
        ("PGD-4", "off"): 30,
        ("EOT-PGD-4", "off"): 30,
    }
    assert all(r.n == 60 and r.accuracy == r.correct / 60 for r in report.rows)
    assert report.n == 60 and report.passed


def test_a_plain_network_gets_rows_without_noise_only():
    report = check(Brightness(), brightness(4, 4), PLAN)
    assert [(r.attack, r.noise) for r in report.rows] == [t for t in TRIALS if t[1] == "off"]
    assert report.liveness.sites == 0 and report.to_dict()["deterministic"] is True


def test_a_noisy_one_gets_all():
    report = check(noisy(), brightness(4, 4), PLAN)
    assert [(r.attack, r.noise) for r in report.rows] == TRIALS
    assert report.passed and report.to_dict()["deterministic"] is False


def test_noise_that_drowns_everything_leaves_chance():
    """Noise off it is right on all but what the attack turns; noise on, every attack finds a coin."""
    report = check(noisy(theta=1e5), brightness(far=150, near=50), PLAN)
    by = {(r.attack, r.noise): r for r in report.rows}
    assert (by["clean", "off"].correct, by["PGD-4", "off"].correct) == (200, 150)
    for trial, row in by.items():
        if trial[1] != "off":
            assert row.interval[0] < 0.5 < row.interval[1], trial
            assert abs(row.accuracy - 0.5) < 4 * (0.25 / 200) ** 0.5


def test_noise_too_small_to_matter_changes_no_figure():
    report = figures(check(noisy(theta=0.01), brightness(far=30, near=30), PLAN))
    assert report["clean", "on"] == report["clean", "off"] == 60
    for attack in ("FGSM", "PGD-4", "EOT-PGD-4"):
        assert report[attack, "on"] == report[attack, "off"] == 30
    assert report["PGD-4 transfer", "off→on"] == 30


def test_each_row_says_its_adversary():
    rows = {(r.attack, r.noise): r for r in check(noisy(), brightness(4, 4), PLAN).rows}
    said = {trial: (r.epsilon, r.steps, r.step_size, r.draws) for trial, r in rows.items()}
    still, one, many = (0, 0, 0, 1), (8 / 255, 1, 8 / 255, 1), (8 / 255, 4, 4 / 255, 1)
    assert said == {
        ("clean", "on"): still,
        ("clean", "off"): still,
        ("FGSM", "on"): one,
        ("FGSM", "off"): one,
        ("PGD-4", "on"): many,
        ("PGD-4", "off"): many,
        ("PGD-4 transfer", "off→on"): many,
        ("EOT-PGD-4", "on"): (8 / 255, 4, 4 / 255, 3),
        ("EOT-PGD-4", "off"): many,
    }
    assert all(r.n == 8 and r.interval[0] <= r.accuracy <= r.interval[1] and r.seconds >= 0 for r in rows.values())


def test_crafting_and_scoring_see_the_noise_that_the_row_claims():
    net = noisy()
    passes = []
    net.conv.perturb.register_forward_hook(
        lambda m, inputs, _: passes.append((inputs[0].requires_grad, m.enabled, len(inputs[0])))
    )
    starts = {}
    check(net, brightness(4, 4), PLAN, on_batch=lambda name, *_: starts.setdefault(name, len(passes)))
    ends = list(starts.values())
    begins = [ends[0] - 1, *ends[:-1]]
    seen = {}
    for (name, end), begin in zip(starts.items(), begins, strict=True):
        during = passes[begin:end]
        crafting, scoring = [p for p in during if p[0]], [p for p in during if not p[0]]
        assert [p[2] for p in scoring] == [8]  # one draw an image scores it
        seen[name] = (len(crafting), {p[1] for p in crafting}, scoring[0][1])
    assert seen == {
        "clean, noise on": (0, set(), True),
        "clean, noise off": (0, set(), False),
        "FGSM, noise on": (1, {True}, True),
        "FGSM, noise off": (1, {False}, False),
        "PGD-4, noise on": (4, {True}, True),
        "PGD-4, noise off": (4, {False}, False),
        "PGD-4 transfer, noise off→on": (4, {False}, True),
        "EOT-PGD-4, noise on": (12, {True}, True),
        "EOT-PGD-4, noise off": (4, {False}, False),
    }


def test_the_same_seed_gives_the_same_report():
    split = brightness(far=20, near=60)
    net = noisy(theta=12.0)
    first = without_seconds(check(net, split, PLAN))
    torch.manual_seed(99)
    again = without_seconds(check(net, split, PLAN))
    assert first.to_json() == again.to_json()
    other = without_seconds(check(net, split, replace(PLAN, seed=1)))
    assert figures(first) != figures(other)


def test_the_callers_random_numbers_and_network_are_untouched():
    net = noisy().train()
    net.conv.eval()
    net.conv.perturb.enabled = False
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    modes = {n: m.training for n, m in net.named_modules()}
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    check(net, brightness(4, 4), PLAN)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(net.conv.weight.grad, torch.ones_like(net.conv.weight))
    assert net.conv.bias.grad is None and net.conv.perturb.theta.grad is None
    assert net.conv.perturb.enabled is False


def test_the_callers_random_numbers_are_untouched_by_a_failure():
    net = nn.Sequential(Brightness(), Threshold())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(ModelError):
        check(net, brightness(4, 4), PLAN)
    assert torch.equal(torch.get_rng_state(), before)


class Threshold(nn.Module):
    def forward(self, x):
        return (x > 0).float()


def test_images_are_limited_and_balanced():
    """A network that always says 0 is right on as many images as there are of class 0."""

    class Always(Brightness):
        def forward(self, x):
            return super().forward(x) * 0 + torch.tensor([1.0, 0.0])

    split = brightness(far=40, near=0)
    crowded = split.subset(torch.tensor([*range(0, 40, 2), *range(0, 40, 2), 1, 3, 5, 7, 9, 11]))
    report = check(Always(), crowded, replace(PLAN, images=12))
    assert report.n == 12
    assert {(r.n, r.correct) for r in report.rows} == {(12, 6)}
    everything = check(Always(), crowded, replace(PLAN, images=1000))
    assert {(r.n, r.correct) for r in everything.rows} == {(46, 40)}


def test_of_a_dataset_the_test_images_are_taken():
    data = replace(named(brightness(4, 4)), train=brightness(100, 0), test=brightness(6, 2))
    report = check(Brightness(), data, PLAN, subject="lamp")
    assert (report.n, report.data, report.subject) == (8, "greys", "lamp")
    assert check(Brightness(), brightness(4, 4), PLAN).data == "own images"


def test_progress_counts_images():
    heard = []
    check(Brightness(), brightness(10, 0), replace(PLAN, batch_size=4), on_batch=lambda *a: heard.append(a))
    assert heard[:3] == [("clean, noise off", 4, 10), ("clean, noise off", 8, 10), ("clean, noise off", 10, 10)]
    assert len(heard) == 12


def test_a_figure_without_noise_does_not_depend_on_the_batch_size():
    split = brightness(far=10, near=13)
    one, other = (check(Brightness(), split, replace(PLAN, batch_size=b)) for b in (5, 64))
    assert figures(one) == figures(other)


def test_dead_noise_fails_the_report_and_the_figures_still_come():
    net = noisy()
    net.conv.perturb.theta.data.zero_()
    report = check(net, brightness(4, 4), PLAN)
    assert not report.passed and len(report.rows) == len(TRIALS)
    assert any("no fresh noise at conv" in f for f in report.liveness.failures)


class Broken(Brightness):
    def forward(self, x):
        return super().forward(x) * float("nan")


def test_not_a_number_is_never_right():
    assert set(figures(check(Broken(), brightness(4, 4), PLAN)).values()) == {0}


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
    "no gradient": (nn.Sequential(Brightness(), Threshold()), brightness(4, 4), ModelError, "gives no gradient"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_checked_is_refused(why):
    net, data, error, said = REFUSED[why]
    with pytest.raises(error, match=said):
        check(net, data, PLAN)


def test_images_of_another_size_are_named():
    small = MemorySplit(torch.zeros(4, 3, 5, 5, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputSizeError, match=r"3×6×6.*3×5×5.*grain=\"channel\""):
        check(noisy(), small, PLAN)


@pytest.mark.parametrize(
    "wrong",
    [{"images": 0}, {"batch_size": 0}, {"epsilon": 2.0}, {"steps": -1}, {"step_size": -0.1}, {"eot_draws": 0}],
    ids=str,
)
def test_a_plan_out_of_its_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least|epsilon|negative"):
        CheckPlan(**wrong)
