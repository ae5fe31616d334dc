"""MarginPgd: inside the ball, blind to scale, never without a direction, and stronger than PGD for less."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import real
from networks.untouched import untouched
from torch import nn

import perturbify
from perturbify.attacks import MarginPgd, Pgd
from perturbify.attacks.losses import margin
from perturbify.errors import ModelError


class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.head(self.norm(self.conv(x)).tanh().mean((2, 3)))


class Scaled(nn.Module):
    def __init__(self, net, scale):
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x):
        return self.net(x) * self.scale


def noisy(net):
    config = perturbify.PerturbConfig(theta_init=0.3)
    return perturbify.wrap(net, config, example_input=torch.rand(2, 3, 32, 32)).eval()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 8 / 255, 1.0])),
    steps=st.integers(1, 4),
    draws=st.integers(1, 3),
    at_once=st.integers(1, 2),
    targets=st.integers(0, 6),
    random_start=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    with_noise=st.booleans(),
)
def test_it_stays_inside(seed, norm, epsilon, steps, draws, at_once, targets, random_start, dtype, scale, with_noise):
    torch.manual_seed(seed)
    net = Net(scale).to(dtype)
    if with_noise:
        net = perturbify.wrap(net, example_input=torch.rand(2, 3, 6, 6, dtype=dtype))
    x = torch.rand(3, 3, 6, 6).mul(3).sub(1).clamp(0, 1).to(dtype)
    before = x.clone()
    attack = MarginPgd(epsilon, steps, draws, at_once, random_start, targets, norm)
    crafted = attack.craft(net, x, torch.tensor([0, 1, 2]))
    assert crafted.images.shape == x.shape and crafted.images.dtype == dtype
    assert not crafted.images.requires_grad and crafted.fooled.dtype == torch.bool
    assert ((crafted.images >= 0) & (crafted.images <= 1)).all()
    change = (crafted.images.double() - x.double()).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    rounding = 2 * torch.finfo(dtype).eps * (1 if norm == "linf" else math.sqrt(x[0].numel()))
    assert (length <= epsilon * (1 + 1e-5) + rounding).all()
    assert torch.equal(x, before)


@real.needed
@pytest.mark.parametrize("targets", [0, 2])
@pytest.mark.parametrize("with_noise", [False, True], ids=["still", "noisy"])
def test_the_scale_of_logits_changes_nothing(with_noise, targets):
    x, y = real.images(16)
    net = real.network("cnn_a_adv4")
    net = noisy(net) if with_noise else net
    attack = MarginPgd(4 / 255, steps=8, draws=3, targets=targets)

    def crafted(scale):
        torch.manual_seed(0)
        return attack.craft(Scaled(net, scale), x, y).images

    # A power of two changes no digit of a float32; a million rounds, and a few signs with it.
    assert torch.equal(crafted(2.0**20), crafted(1.0))
    assert torch.equal(crafted(2.0**-20), crafted(1.0))
    assert (crafted(1e6) != crafted(1.0)).float().mean() < 0.01


@pytest.mark.parametrize("draws", [1, 4])
def test_a_saturated_loss_does_not_stop_the_attack(draws):
    class Sure(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3))
            noise = torch.randn(len(x)) if draws > 1 else 0
            return torch.stack([1e7 + 1e3 * bright + noise, torch.zeros(len(x))], 1)

    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.long)
    images = MarginPgd(0.1, 5, draws).craft(Sure(), x, y).images
    assert torch.allclose(images, torch.tensor(0.4))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_finds_the_optimum_of_a_linear_network(norm):
    torch.manual_seed(0)
    weight = torch.randn(1, 3, 4, 4)

    class Linear(nn.Module):
        def forward(self, x):
            score = (weight * x).sum((1, 2, 3))
            return torch.stack([-score, score], 1)

    x, y = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])
    best = torch.cat([weight, -weight])
    best = 0.3 * (best.sign() if norm == "linf" else best / weight.norm())
    images = MarginPgd(0.3, 20, norm=norm).craft(Linear(), x, y).images
    assert torch.allclose(images - x, best, atol=1e-5)


class Border(nn.Module):
    """Two draws: of one the margin is near 0 and falls with brightness, of the other it is far off and rises."""

    def __init__(self, far):
        super().__init__()
        self.far, self.calls = far, 0

    def forward(self, x):
        self.calls += 1
        bright = (x - 0.5).sum((1, 2, 3))
        m = -bright if self.calls % 2 else self.far * 1e4 + 1.3 * bright
        # Six classes: two that never matter stretch the logits, so that the far one is far in their units as well.
        zero = torch.zeros_like(m)
        return torch.stack([zero, m, zero - 1e4, zero - 1e4, zero - 1e4, zero - 1e4], 1)


@pytest.mark.parametrize("far", [-1, 1])
def test_draws_on_the_border_weigh_most(far, monkeypatch):
    monkeypatch.setattr("perturbify.attacks.momentum.randomness", lambda *_: "foreign")
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    images = MarginPgd(0.1, 6, draws=2).craft(Border(far), x, y).images
    assert torch.allclose(images, torch.tensor(0.4)), "the mean margin would have made it bright"


def test_batched_draws_are_weighted_like_single_ones(monkeypatch):
    monkeypatch.setattr("perturbify.attacks.momentum.randomness", lambda *_: "fresh")
    torch.manual_seed(0)
    net, x, y = Net().eval(), torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 3])
    alone, together = (MarginPgd(0.1, 4, draws=6, at_once=n) for n in (1, 4))
    assert torch.allclose(alone.craft(net, x, y).images, together.craft(net, x, y).images, atol=1e-6)


def test_deterministic_networks_keep_their_best_point():
    """Later steps lead past a narrow peak, which one of them met."""
    seen = []

    class Narrow(nn.Module):
        def forward(self, x):
            v = x.mean((1, 2, 3)) - 0.5
            height = v + 5 * torch.exp(-(((v - 0.1) / 0.02) ** 2)).detach()
            seen.append(height.max().item())
            return torch.stack([torch.zeros(len(x)), height], 1)

    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    crafted = MarginPgd(0.4, 8).craft(Narrow(), x, y)
    with torch.no_grad():
        margins = margin(Narrow()(crafted.images), y)
    assert margins.item() == pytest.approx(max(seen), abs=1e-5)


def test_random_networks_keep_their_last_point():
    class Lucky(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3))
            return torch.stack([torch.zeros(len(x)), bright + 100 * torch.randn(len(x))], 1)

    x, y = torch.full((6, 1, 2, 2), 0.5), torch.zeros(6, dtype=torch.long)
    assert torch.allclose(MarginPgd(0.1, 10).craft(Lucky(), x, y).images, torch.tensor(0.6))


class Corner(nn.Module):
    """Class 1 is nearer at first and never reached; class 2 is."""

    def forward(self, x):
        left, right = x[..., 0].mean((1, 2)) - 0.5, x[..., -1].mean((1, 2)) - 0.5
        one = 0.1 * left - 0.02 * left.sign().detach() - 0.02
        return torch.stack([torch.full_like(left, 0.05), torch.maximum(one, one * 0) + 0.03, right * 0.3], 1)


def test_targets_include_less_likely_classes():
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    assert not MarginPgd(0.3, 10).craft(Corner(), x, y).fooled.any()
    assert not MarginPgd(0.3, 10, targets=1).craft(Corner(), x, y).fooled.any()
    assert MarginPgd(0.3, 10, targets=2).craft(Corner(), x, y).fooled.all()
    assert MarginPgd(0.3, 10, targets=9).craft(Corner(), x, y).fooled.all()


@real.needed
def test_it_beats_pgd_on_a_network_without_noise():
    x, y = real.images(96)
    net = real.network("cnn_a_adv4")
    torch.manual_seed(0)
    epsilon = 4 / 255
    pgd = real.accuracy(net, Pgd(epsilon, epsilon / 4, 15).craft(net, x, y).images, y)
    ours = MarginPgd(epsilon, 15).craft(net, x, y)
    assert real.accuracy(net, ours.images, y) <= pgd
    towards = MarginPgd(epsilon, 15, targets=3).craft(net, x, y)
    assert real.accuracy(net, towards.images, y) <= real.accuracy(net, ours.images, y)
    assert torch.equal(towards.fooled, net(towards.images).argmax(1) != y)


@real.needed
def test_40_gradients_match_120_of_pgd_under_noise():
    x, y = real.images(96)
    net = noisy(real.network("cnn_a_adv4"))
    epsilon = 4 / 255
    left = {}
    for attack in (Pgd(epsilon, epsilon / 4, 12, draws=10), MarginPgd(epsilon, 10, draws=4)):
        torch.manual_seed(0)
        images = attack.craft(net, x, y).images
        torch.manual_seed(1)
        left[type(attack)] = real.accuracy(net, images, y, 30)
    assert left[MarginPgd] < left[Pgd] + 0.01


@pytest.mark.parametrize("attack", [MarginPgd(steps=3, draws=2), MarginPgd(steps=2, targets=2)], ids=repr)
@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
def test_nothing_of_the_network_changes(attack, fails):
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 3])
    net = perturbify.wrap(Net(), example_input=x).train()
    parameters = list(net.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    calls = []

    def count(*_):
        calls.append(1)
        if fails and len(calls) == 7:
            raise FloatingPointError("in the middle")

    net.register_forward_hook(count)
    with untouched(net, draws=True), pytest.raises(FloatingPointError) if fails else nullcontext():
        attack.craft(net, x, y)


@pytest.mark.parametrize("attack", [MarginPgd(steps=3, draws=2), MarginPgd(steps=3, random_start=True)], ids=repr)
def test_the_callers_seed_decides(attack):
    x, y = torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 3])
    net = perturbify.wrap(Net(), example_input=x).eval()

    def crafted(seed):
        torch.manual_seed(seed)
        return attack.craft(net, x, y).images

    assert torch.equal(crafted(1), crafted(1)) and not torch.equal(crafted(1), crafted(2))


@pytest.mark.parametrize(
    "attack",
    [MarginPgd(steps=3, draws=2), MarginPgd(steps=3, draws=5, at_once=5), MarginPgd(steps=2, targets=3)],
    ids=repr,
)
def test_the_stated_cost_is_the_actual_cost(attack, monkeypatch):
    monkeypatch.setattr("perturbify.attacks.momentum.randomness", lambda *_: "fresh")
    calls = {"forward": 0, "gradient": 0}

    class Counting(nn.Module):
        def forward(self, x):
            calls["gradient" if x.requires_grad else "forward"] += len(x) // 2
            return x.sum((2, 3)) @ torch.rand(3, 5)

    attack.craft(Counting(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    assert (calls["forward"], calls["gradient"]) == (attack.passes.forward, attack.passes.gradient)


class Rounded(nn.Module):
    def forward(self, x):
        return (x > 0.5).float().mean((2, 3))


def test_a_network_without_gradients_is_refused():
    with pytest.raises(ModelError, match="has no gradient with respect to its images"):
        MarginPgd().craft(Rounded(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))


class NotNumbers(nn.Module):
    """Logits or gradients that are not numbers, in every n-th forward."""

    def __init__(self, what, every):
        super().__init__()
        self.what, self.every, self.calls = what, every, 0

    def forward(self, x):
        self.calls += 1
        logits = torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 1.1, x.mean((1, 2, 3)) * 0 - 9], 1)
        if self.calls % self.every:
            return logits
        return logits * torch.nan if self.what == "logits" else logits + (logits * 0).abs().sqrt()


@pytest.mark.parametrize("targets", [0, 2])
@pytest.mark.parametrize("what", ["logits", "gradient"])
def test_nan_outputs_do_not_stop_the_attack(what, targets, monkeypatch):
    monkeypatch.setattr("perturbify.attacks.momentum.randomness", lambda *_: "foreign")
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    attack = MarginPgd(0.1, 6, draws=3, targets=targets)
    always = attack.craft(NotNumbers(what, 1), x, y)
    assert always.images.isfinite().all() and always.fooled.all() == (what == "logits")
    assert torch.allclose(attack.craft(NotNumbers(what, 2), x, y).images, torch.tensor(0.6))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": -0.1},
        {"norm": "l0"},
        {"steps": 0},
        {"draws": 0},
        {"at_once": 0},
        {"targets": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MarginPgd(**wrong)
