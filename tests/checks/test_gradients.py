"""Gradients are tested before they are trusted: honest ones pass, whatever hides or bends them is found."""

import pytest
import torch
from networks import masks, real
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.checks.evaluate import seed_of
from perturbify.checks.gradients import ALIVE, gradients

HELPS, TRUE = "a step along the gradient helps more than a random one", "the loss falls as the gradient predicts"
EPSILON = 8 / 255


def judge(net, x, y, draws=1, epsilon=EPSILON):
    seeds = [seed_of(0, "gradients", i) for i in range(draws)]
    return {c.name: c for c in gradients(net, x, y, epsilon=epsilon, seeds=seeds)}


@pytest.fixture(scope="module")
def images():
    x, y = masks.digits()
    return x[:128], y[:128]


def noisy(config=None, method="learn2perturb"):
    torch.manual_seed(0)
    x, _ = masks.digits()
    return perturbify.wrap(masks.honest(), config, method=method, example_input=x[:2])


HONEST = {
    "plain": masks.honest,
    "a little cold": lambda: masks.cold(masks.honest(), 3.0),
    "softmax": lambda: nn.Sequential(masks.honest(), nn.LogSoftmax(1)),
    "in train mode": lambda: masks.honest().train(),
    "noisy": lambda: noisy(PerturbConfig(theta_init=0.1)),
    "noise on weights": lambda: noisy(method="pni"),
    "noise of its own": lambda: masks.noise_of_its_own(masks.honest(), 0.1),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_gradients_pass(name, images):
    draws = 1 if name in ("plain", "a little cold", "softmax", "in train mode") else 10
    found = judge(HONEST[name](), *images, draws)
    assert {n: c.outcome for n, c in found.items()} == dict.fromkeys((ALIVE, HELPS, TRUE), "pass")


class Autocast(nn.Module):
    """A network in the precision that GPUs are run in."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


@real.needed
def test_low_precision_does_not_fail_a_real_network():
    found = judge(Autocast(real.network("cnn_a_adv4")), *real.images(128))
    assert "fail" not in {c.outcome for c in found.values()}


@real.needed
@pytest.mark.parametrize("name", ["cnn_a_adv4", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_real_networks_pass(name):
    found = judge(real.network(name), *real.images(128))
    assert {c.outcome for c in found.values()} == {"pass"}
    assert len(found) == 3 and all(c.core for c in found.values())


DEAD = {
    "detached": masks.detached,
    "under no_grad": lambda net: NoGrad(net),
    "zero": lambda net: masks.backward(net, torch.zeros_like),
    "constant": lambda net: masks.backward(net, torch.ones_like),
    "NaN": lambda net: masks.backward(net, lambda g: g * float("nan")),
    "rounded": masks.rounded,
    "logits rounded": lambda net: masks.Mask(net, after=lambda z, x: z.round()),
    "answers NaN": lambda net: masks.Mask(net, after=lambda z, x: z * float("nan")),
}


class NoGrad(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("name", DEAD)
def test_dead_gradients_are_found(name, images):
    found = judge(DEAD[name](masks.honest()), *images)
    assert {e.estimate for e in found[ALIVE].evidence} == {1.0}
    assert found[ALIVE].outcome == found[HELPS].outcome == "fail"


def test_an_infinite_gradient_counts_as_dead(images):
    found = judge(masks.backward(masks.honest(), lambda g: g / 0.0), *images)
    assert found[ALIVE].outcome == "fail"


def test_a_gradient_that_is_zero_for_some_images(images):
    """Where the network is sure, it saturates."""
    x, y = images

    def saturate(g):
        g = g.clone()
        g[::4] = 0
        return g

    found = judge(masks.backward(masks.honest(), saturate), x, y)
    assert found[ALIVE].evidence[0].estimate == 0.25 and found[ALIVE].outcome == "fail"


def test_cold_logits_kill_only_the_cross_entropy_gradient(images):
    found = judge(masks.cold(masks.honest(), 1e4), *images)
    margin, entropy = found[ALIVE].evidence
    assert "margin" in margin.statement and margin.outcome == "pass"
    assert "cross-entropy" in entropy.statement and entropy.outcome == "fail" and entropy.estimate > 0.8
    assert found[HELPS].outcome == found[TRUE].outcome == "pass"


BENT = {
    "wrong sign": masks.wrong_way,
    "random": lambda net: masks.backward(net, torch.randn_like),
    "another image's": lambda net: masks.backward(net, lambda g: g.roll(1, 0)),
    "shifted": lambda net: masks.backward(net, lambda g: g.roll((4, 4), (2, 3))),
}


@pytest.mark.parametrize("name", BENT)
def test_misleading_gradients_are_found(name, images):
    found = judge(BENT[name](masks.honest()), *images)
    assert found[ALIVE].outcome == "pass", "they are there"
    assert found[HELPS].outcome == "fail" or found[TRUE].outcome == "fail"
    assert found[TRUE].outcome == "fail"


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_gradient_with_the_wrong_length(factor, images):
    found = judge(masks.backward(masks.honest(), lambda g: factor * g), *images)
    assert {n: c.outcome for n, c in found.items()} == {ALIVE: "pass", HELPS: "pass", TRUE: "fail"}


@real.needed
def test_rounding_on_real_images():
    """A defence of a few bits, on a network of real images."""
    x, y = real.images(128)
    found = judge(masks.rounded(real.network("cnn_a_adv4")), x, y)
    assert found[ALIVE].outcome == "fail"


def test_a_few_images_are_not_enough(images):
    x, y = images
    found = judge(masks.honest(), x[:32], y[:32])
    assert found[ALIVE].outcome == "undecided"


def test_the_network_is_left_as_it_was(images):
    net = masks.honest().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    judge(net, *images, 3)
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
