"""A frozen network is a function, the same for every image, and freezing it costs the caller nothing."""

import random

import numpy as np
import pytest
import timm
import torch
from networks.untouched import untouched
from torch import nn

import perturbify
from perturbify.attacks.realisations import Frozen, randomness
from perturbify.errors import ModelError
from perturbify.perturbation import drawing_per

X = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # kernels for another batch size add in another order


class Own(nn.Module):
    """Draws by itself: from torch, and where asked from numpy and Python, too."""

    def __init__(self, elsewhere=False):
        super().__init__()
        self.conv, self.head, self.elsewhere = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), elsewhere

    def forward(self, x):
        x = self.conv(x)
        x = x + torch.randn_like(x)
        if self.elsewhere:
            x = x + random.random() + np.random.random()
        return self.head(x.relu().mean((2, 3)))


class Windows(nn.Module):
    """Convolves the four quarters of each image, which stand side by side in the batch."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

    def forward(self, x):
        quarters = x.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 16, 16)
        return self.head(self.conv(quarters).relu().mean((2, 3)).view(len(x), 4, -1).mean(1))


class Unseeded(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return x.mean((2, 3)) + torch.randn(len(x), 3, generator=self.generator)


class Decisions(nn.Module):
    """Noise that hardly ever changes what comes out."""

    def forward(self, x):
        return ((x + 1e-3 * torch.randn_like(x)).mean((2, 3)) > 0.9).float()


def wrapped(net, **config):
    config.setdefault("theta_init", 0.5)
    return perturbify.wrap(net, perturbify.PerturbConfig(**config), example_input=X[:2]).eval()


def build(name):
    torch.manual_seed(1)
    if name == "timm":
        return wrapped(timm.create_model("resnet10t", num_classes=4))
    if name == "shared":
        return wrapped(timm.create_model("resnet10t", num_classes=4), draw_per="batch")
    if name == "plain":
        return wrapped(nn.Sequential(nn.Conv2d(3, 6, 3, 4), nn.ReLU(), nn.Conv2d(6, 4, 8), nn.Flatten()))
    return {"own": Own, "windows": lambda: wrapped(Windows())}[name]().eval()


NETWORKS = ["timm", "shared", "own", "windows"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_image_meets_the_same_realisations(name):
    net = build(name)
    with torch.no_grad():
        assert not torch.equal(net(X), net(X))
        frozen = Frozen(net, draws=2, seed=3)
        logits = frozen(X)
        assert logits.shape == (6, 4)
        assert torch.equal(frozen(X), logits)
        assert torch.equal(Frozen(net, draws=2, seed=3)(X), logits)
        assert torch.allclose(frozen(X[:1]), logits[:1], **CLOSE)
        assert torch.allclose(frozen(X[2:5]), logits[2:5], **CLOSE)
        assert torch.allclose(frozen(X.flip(0)).flip(0), logits, **CLOSE)
        assert torch.allclose(frozen(X[:1].expand(3, -1, -1, -1)), logits[:1].expand(3, -1), **CLOSE)
        assert not torch.allclose(Frozen(net, draws=2, seed=4)(X), logits, **CLOSE)
        if name in ("own", "windows"):  # image by image there is one batch size only
            assert torch.equal(frozen(X[3:]), logits[3:])


@pytest.mark.parametrize("name", ["plain", "windows", "own"])
def test_the_average_over_many_realisations_is_the_mean(name):
    net = build(name)
    with torch.no_grad():
        torch.manual_seed(0)
        fresh = net(X[:1].expand(400, -1, -1, -1)).double()
        frozen = torch.cat([Frozen(net, 1, seed)(X[:1]) for seed in range(100)]).double()
        averaged = Frozen(net, draws=100)(X[:1])[0].double()
    error = (fresh.var(0) / 400 + fresh.var(0) / 100).sqrt()
    assert ((frozen.mean(0) - fresh.mean(0)).abs() < 5 * error).all()
    assert ((averaged - fresh.mean(0)).abs() < 5 * error).all()
    # Not only centred where the fresh noise is, but as wide: one realisation is a draw like any other.
    ratio = frozen.var(0) / fresh.var(0)
    assert ((ratio > 0.5) & (ratio < 2)).all(), ratio


@pytest.mark.parametrize("name", ["timm", "windows", "own"])
def test_gradients_are_those_of_the_average(name):
    net = build(name).double()
    frozen = Frozen(net, draws=3)
    x = X[:2].double().requires_grad_(True)
    gradient = torch.autograd.grad(frozen(x)[:, 1].sum(), x)[0]
    assert gradient.abs().max() > 0
    with torch.no_grad():
        step = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
        ahead, behind = (frozen(x + s * 1e-6 * step)[:, 1].sum() for s in (1, -1))
    assert ((ahead - behind) / 2e-6).item() == pytest.approx((gradient * step).sum().item(), rel=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_left_behind(name):
    net = build(name)
    with untouched(net):
        Frozen(net, draws=2)(X)
        assert randomness(net, X[:2]) != "none"


@pytest.mark.parametrize("fails_at", [1, 5])
def test_nothing_is_left_behind_when_the_network_fails(fails_at):
    net = build("timm")
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == fails_at:
            raise FloatingPointError("in the middle")

    net.register_forward_hook(fail)
    with untouched(net), pytest.raises(FloatingPointError):
        Frozen(net, draws=4)(X)
    assert len(calls) == fails_at


def test_numpy_and_python_are_frozen_too():
    net = Own(elsewhere=True)
    frozen = Frozen(net, draws=2)
    with untouched(net):
        assert torch.equal(frozen(X), frozen(X))


def test_a_network_without_randomness_passes_through():
    torch.manual_seed(1)
    net = timm.create_model("resnet10t", num_classes=4).eval()
    with torch.no_grad():
        frozen = Frozen(net, draws=5)
        assert torch.equal(frozen(X), net(X))
        forwards = []
        net.register_forward_hook(lambda *_: forwards.append(1))
        frozen(X)
        assert len(forwards) == 1


def test_noise_that_is_switched_off_is_not_frozen():
    net = build("timm")
    frozen = Frozen(net, draws=3)
    with torch.no_grad():
        noisy = frozen(X)
        with perturbify.noise(frozen, enabled=False):
            assert torch.equal(frozen(X), net(X))
        assert torch.equal(frozen(X), noisy)


def test_dropout_that_is_left_on_is_frozen():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Dropout(0.5), nn.Linear(8, 4)).eval()
    frozen = Frozen(net)
    with torch.no_grad():
        assert torch.equal(frozen(X), net(X))
        net[2].train()
        assert not torch.equal(net(X), net(X))
        assert torch.equal(frozen(X), frozen(X))
        assert torch.equal(frozen(X)[2:], frozen(X[2:]))


def test_frozen_realisations_differ_from_the_callers_own_draw():
    net = Own().eval()
    with torch.no_grad():
        torch.manual_seed(0)
        assert not torch.allclose(net(X[:1]), Frozen(net)(X[:1]), **CLOSE)


def test_unseeded_randomness_cannot_be_frozen():
    with pytest.raises(ModelError, match="Unseeded returns different logits for the same seed"):
        Frozen(Unseeded())(X)


def test_zero_draws_are_refused():
    with pytest.raises(ValueError, match="draws"):
        Frozen(Own(), draws=0)


@pytest.mark.parametrize(
    ("name", "expected"), [("timm", "fresh"), ("shared", "shared"), ("windows", "fresh"), ("own", "foreign")]
)
def test_the_kind_of_randomness_is_detected(name, expected):
    net = build(name).train()
    modes = [m.training for m in net.modules()]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    assert randomness(net, X[:2]) == expected
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    with perturbify.noise(net, enabled=False):
        assert randomness(net, X[:2]) == ("foreign" if name == "own" else "none")


@pytest.mark.parametrize("net", [Unseeded(), Decisions(), Own(elsewhere=True)], ids=lambda n: type(n).__name__)
def test_hidden_randomness_is_detected(net):
    assert randomness(net, X[:2]) == "foreign"


class WhereAsked(nn.Module):
    """Draws only where a gradient is asked for."""

    def forward(self, x):
        return (x + torch.randn_like(x) if x.requires_grad else x).mean((2, 3))


class Changing(nn.Module):
    """Another answer after the fifth."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.mean((2, 3)) + (self.calls > 5)


@pytest.mark.parametrize("net", [WhereAsked(), Changing()], ids=lambda n: type(n).__name__)
def test_randomness_only_during_attacks_is_detected(net):
    assert randomness(net, X[:2]) == "foreign"


def test_both_kinds_of_noise_count_as_foreign():
    assert randomness(nn.Sequential(wrapped(nn.Conv2d(3, 3, 3)), Own()), X[:2]) == "foreign"


def test_dropout_in_eval_mode_is_not_random():
    assert randomness(timm.create_model("resnet10t", drop_rate=0.5, num_classes=4).train(), X[:2]) == "none"


def test_shared_noise_is_drawn_once_per_batch():
    net = build("timm")
    twins = X[:1].expand(2, -1, -1, -1)
    with torch.no_grad():
        with pytest.raises(KeyError), drawing_per(net, "batch"):
            first, second = net(twins)
            assert torch.allclose(first, second, **CLOSE)
            assert not torch.allclose(net(twins)[0], first, **CLOSE)
            raise KeyError
        first, second = net(twins)
    assert not torch.allclose(first, second, **CLOSE)
