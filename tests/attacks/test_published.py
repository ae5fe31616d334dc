"""The attacks against figures that were measured with other code on the same weights and images."""

import importlib.util
from pathlib import Path

import pytest
import torch

from perturbify.attacks import Pgd, fgsm, pgd

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real images and weights are not in {DATA}")

# shared/data/README.md, first 256 original test images, percent.
FIGURES = {
    "resnet4b_adv": {"fgsm": 25.0, "pgd7": 16.4, "pgd20": 63.3},
    "cnn_a_adv4": {"fgsm": 25.4, "pgd7": 21.1, "pgd20": 48.8},
}
ATTACKS = {
    "fgsm": lambda net, x, y: fgsm(net, x, y, epsilon=8 / 255),
    "pgd7": lambda net, x, y: pgd(net, x, y, Pgd(8 / 255, 0.01, 7)),
    "pgd20": lambda net, x, y: pgd(net, x, y, Pgd(2 / 255, 0.5 / 255, 20)),
}


def module(name):
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def images():
    mini = module("cifar10_data").load_mini()
    x = torch.from_numpy(mini["x_test"][:256]).permute(0, 3, 1, 2).contiguous().float().div_(255)
    return x, torch.from_numpy(mini["y_test"][:256]).long()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("network", FIGURES)
def test_the_figures_are_those_of_other_code(network, attack, images):
    x, y = images
    net = module("cifar10_zoo").load(network)
    torch.manual_seed(0)
    attacked = ATTACKS[attack](net, x, y)
    with torch.no_grad():
        accuracy = (net(attacked).argmax(1) == y).float().mean().item()
    published = FIGURES[network][attack] / 100
    standard_error = (published * (1 - published) / len(y)) ** 0.5
    assert abs(accuracy - published) < standard_error, f"{accuracy:.3f} here, {published:.3f} there"
