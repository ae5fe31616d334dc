"""The attacks against figures that were measured with other code on the same weights and images."""

import pytest
import torch
from networks import real

from perturbify.attacks import Pgd, fgsm, pgd

pytestmark = real.needed

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


@pytest.fixture(scope="module")
def images():
    return real.images(256)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("network", FIGURES)
def test_figures_match_other_implementations(network, attack, images):
    x, y = images
    net = real.network(network)
    torch.manual_seed(0)
    attacked = ATTACKS[attack](net, x, y)
    accuracy = real.accuracy(net, attacked, y)
    published = FIGURES[network][attack] / 100
    standard_error = (published * (1 - published) / len(y)) ** 0.5
    assert abs(accuracy - published) < standard_error, f"{accuracy:.3f} here, {published:.3f} there"
