"""The same attack, here and in other libraries, on real networks and images, leaves the same accuracy."""

import pytest
import torch
from networks import real

from perturbify.attacks import FewPixel, Pgd
from perturbify.attacks.libraries import Apgd

pytestmark = real.needed
NETWORKS = ("resnet4b_adv", "cnn_a_adv4")
ABSENT = "torchattacks is not here (pip install --no-deps torchattacks)"
EPSILON, STEP, STEPS = 2 / 255, 0.5 / 255, 20


def foolbox(net, x, y):
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)
    return attack(foolbox.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=EPSILON)[1]


def torchattacks(net, x, y):
    library = pytest.importorskip(
        "torchattacks", reason="torchattacks is not here (pip install --no-deps torchattacks)"
    )
    return library.PGD(net, eps=EPSILON, alpha=STEP, steps=STEPS)(x, y)


def half_width(accuracy, n):
    """Of a 95% interval."""
    return 1.96 * (accuracy * (1 - accuracy) / n) ** 0.5


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # foolbox's, of scipy
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("library", [foolbox, torchattacks])
def test_pgd(library, network, monkeypatch):
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    x, y = real.images(128)
    net = real.network(network)
    torch.manual_seed(0)
    ours = Pgd(EPSILON, STEP, STEPS).craft(net, x, y).images
    torch.manual_seed(0)
    theirs = library(net, x, y)
    a, b = real.accuracy(net, ours, y), real.accuracy(net, theirs, y)
    assert abs(a - b) <= half_width(b, len(y)), f"{a:.3f} here, {b:.3f} there"
    # Not by chance: image by image they agree but for those on the edge.
    with torch.no_grad():
        differing = (net(ours).argmax(1) == y) != (net(theirs).argmax(1) == y)
    assert differing.float().mean() <= 0.03


@pytest.mark.parametrize("network", NETWORKS)
def test_one_pixel(network):
    """torchattacks' OnePixel (scipy's differential evolution, image by image) with as many candidates."""
    library = pytest.importorskip(
        "torchattacks", reason="torchattacks is not here (pip install --no-deps torchattacks)"
    )
    x, y = real.images(64)
    net = real.network(network)
    with torch.no_grad():
        right = (net(x).argmax(1) == y).nonzero().flatten()[:24]
    x, y = x[right], y[right]
    torch.manual_seed(0)
    ours = FewPixel(1, population=50, generations=7).craft(net, x, y).images
    torch.manual_seed(0)
    theirs = library.OnePixel(net, pixels=1, steps=7, popsize=50)(x, y)
    a, b = real.accuracy(net, ours, y), real.accuracy(net, theirs, y)
    assert abs(a - b) <= half_width(0.8, len(y)), f"{a:.3f} here, {b:.3f} there"


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_is_not_weaker_than_pgd_50(loss, network):
    x, y = real.images(128)
    net = real.network(network)
    torch.manual_seed(0)
    ours = real.accuracy(net, Pgd(8 / 255, 2 / 255, 50).craft(net, x, y).images, y)
    theirs = real.accuracy(net, Apgd(loss, 8 / 255, draws=1).craft(net, x, y).images, y)
    assert theirs <= ours + half_width(ours, len(y)), f"PGD-50 {ours:.3f}, APGD {theirs:.3f}"
