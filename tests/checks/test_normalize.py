"""A normalisation layer that is given to a check or a comparison runs before a plain network."""

import pytest
import torch
from torch import nn

import perturbify
from perturbify import CheckPlan, Normalize, check
from perturbify.checks.compare import compare
from perturbify.errors import CheckError

LAYER = Normalize((0.5,), (0.2,))
PLAN = CheckPlan(attacks=("fgsm",), images=20, draws=1)


@pytest.fixture
def images():
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, (x.mean((1, 2, 3)) > 0.5).long()


def bright():
    """Tells bright images from dark ones, of images whose mean is 0."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(16, 2))
    nn.init.ones_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    nn.init.zeros_(net[2].bias)
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
    return net.eval()


def test_a_check_normalises_a_plain_network(images):
    with_layer, without = (check(bright(), images, PLAN, normalize=layer) for layer in (LAYER, None))
    assert (with_layer.results[0].accuracy, with_layer.architecture) == (1.0, "Sequential")
    assert without.results[0].accuracy < 0.8


def test_a_comparison_normalises_those_it_names(images):
    found = compare({"a": bright(), "b": bright()}, images, PLAN, normalize={"a": LAYER})
    first, second = (entry.report.results[0].accuracy for entry in found.entries)
    assert first == 1.0 > second
    with pytest.raises(ValueError, match="given for 'c', and no network is called so"):
        compare({"a": bright()}, images, PLAN, normalize={"c": LAYER})


def test_a_wrapped_network_normalises_inside(images):
    wrapped = perturbify.wrap(bright(), example_input=images[0])
    with pytest.raises(CheckError, match=r"wrapped network normalises inside\. .*normalize="):
        check(wrapped, images, PLAN, normalize=LAYER)
    with pytest.raises(CheckError, match="a is wrapped, and normalises inside"):
        compare({"a": wrapped}, images, PLAN, normalize={"a": LAYER})
