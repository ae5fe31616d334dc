"""Noise that only looks alive is found out; noise that is alive is not accused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import perturbify
from perturbify import PerturbConfig, zoo
from perturbify.checks.liveness import examine
from perturbify.perturbation import Perturbation
from perturbify.surgery.noisy import Step

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding="same")
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.conv2(self.conv1(x).relu()).mean((2, 3)))


class SharedNet(Net):
    def forward(self, x):
        x = self.conv2(self.conv1(x).relu())
        return self.head(self.conv2(self.conv2(x)).mean((2, 3)))


class BlurNet(Net):
    """A fixed filter, a functional convolution of a learned one, and a transposed one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("blur", torch.full((4, 1, 2, 2), 0.25))
        self.filter = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.up = nn.ConvTranspose2d(4, 4, 2)

    def forward(self, x):
        x = F.conv2d(self.conv1(x), self.blur, groups=4)
        return self.head(self.up(self.conv2(F.conv2d(x, self.filter))).mean((2, 3)))


class TrainOnlyNet(Net):
    """An auxiliary branch that eval mode does not run."""

    def forward(self, x):
        x = self.conv1(x).relu()
        y = self.head(x.mean((2, 3)))
        return y + self.head(self.conv2(x).mean((2, 3))) if self.training else y


def wrap(net=None, images=IMAGES, **config):
    torch.manual_seed(0)
    return perturbify.wrap(net or Net(), PerturbConfig(**config), example_input=images[:2])


HEALTHY = {
    "plain": lambda: wrap(),
    "one draw a batch": lambda: wrap(draw_per="batch"),
    "channel": lambda: wrap(grain="channel"),
    "layer": lambda: wrap(grain="layer"),
    "at its floor": lambda: wrap(theta_init=0.01),
    "another floor": lambda: wrap(theta_init=0.3, theta_min=0.3),
    "convolution called thrice": lambda: wrap(SharedNet()),
    "convolution called thrice with one θ": lambda: wrap(SharedNet(), theta_per="module", grain="channel"),
    "excluded": lambda: wrap(exclude=("conv1",)),
    "fixed filter": lambda: wrap(BlurNet()),
    "only in training": lambda: wrap(TrainOnlyNet()),
    "inside another": lambda: nn.Sequential(nn.Identity(), wrap(BlurNet(), exclude=("conv1",))),
    "normalised": lambda: perturbify.wrap(
        Net(), example_input=IMAGES, normalize=perturbify.Normalize((0.5,) * 3, (0.2,) * 3)
    ),
    "timm": lambda: perturbify.wrap(zoo.create("timm:test_efficientnet", num_classes=3), example_input=IMAGES),
    "ours": lambda: perturbify.wrap(zoo.create("cifar_resnet20"), example_input=IMAGES),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_noise_is_not_accused(name):
    found = examine(HEALTHY[name](), IMAGES)
    assert found.failures == []
    assert found.sites > 0 and found.convolutions == found.perturbed + found.skipped
    assert found.to_dict()["alive"] is True


def test_the_counts():
    found = examine(wrap(SharedNet()), IMAGES)
    assert (found.convolutions, found.perturbed, found.skipped, found.sites) == (4, 4, 0, 4)
    found = examine(wrap(SharedNet(), theta_per="module", grain="channel"), IMAGES)
    assert (found.convolutions, found.perturbed, found.skipped, found.sites) == (4, 4, 0, 2)
    found = examine(wrap(BlurNet(), exclude=("conv1",)), IMAGES)
    assert (found.convolutions, found.perturbed, found.skipped, found.sites) == (5, 3, 2, 3)


def test_a_network_without_noise_makes_no_claim():
    for net in (Net(), perturbify.wrap(Net(), None, example_input=IMAGES)):
        found = examine(net, IMAGES)
        assert found.failures == [] and found.sites == 0 and found.convolutions == 2
        assert found.to_dict()["alive"] is False


class Returning(Perturbation):
    def forward(self, x):
        return x


class Frozen(Perturbation):
    """Adds noise, always the same: what ONNX export makes of a draw that it bakes in."""

    def forward(self, x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return super().forward(x)


def replaced(kind):
    net = wrap()
    old = net.conv2.perturb
    net.conv2.perturb = kind(old.theta.shape)
    return net


def with_theta(value):
    net = wrap()
    net.conv2.perturb.theta.data[0, 0, 0] = value
    return net


def with_forward(forward):
    net = wrap()
    net.conv2.perturb.forward = forward
    return net


class Faulty(Step):
    """A step of conv2's that does something else than to call its noise, as a faulty surgery might leave it."""

    order = 3

    def __init__(self, noise):
        self.noise = noise

    def around(self, module, name, proceed, args, kwargs):
        return self.noise(proceed(args, kwargs))


def faulty(noise_of):
    net = wrap(grain="layer")  # so that any θ fits
    vars(net.conv2)["_perturb_steps"] = (Faulty(noise_of(net)),)
    return net


class ByHand(Net):
    """Noise behind the first of two convolutions, written by hand."""

    def __init__(self):
        super().__init__()
        self.conv1.perturb = Perturbation((4, 1, 1))

    def forward(self, x):
        x = self.conv1.perturb(self.conv1(x)).relu()
        return self.head(self.conv2(x).mean((2, 3)))


DEAD = {
    "returns its input": (lambda: replaced(Returning), "no fresh noise at conv2"),
    "always the same": (lambda: replaced(Frozen), "no fresh noise at conv2"),
    "forward patched away": (lambda: with_forward(lambda x: x), "no fresh noise at conv2"),
    "a constant patched in": (lambda: with_forward(lambda x: x + 0.25), "no fresh noise at conv2"),
    "θ below its floor": (lambda: with_theta(0.009), "θ below θ_min or not finite at conv2"),
    "θ is 0": (lambda: with_theta(0.0), "θ below θ_min or not finite at conv2"),
    "θ is negative": (lambda: with_theta(-1.0), "θ below θ_min or not finite at conv2"),
    "θ is NaN": (lambda: with_theta(math.nan), "θ below θ_min or not finite at conv2"),
    "θ is infinite": (lambda: with_theta(math.inf), "θ below θ_min or not finite at conv2"),
    "noise left out": (
        lambda: faulty(lambda net: nn.Identity()),
        "2 convolution calls, but noise after 1 (0 skipped on purpose)",
    ),
    "another site's noise": (lambda: faulty(lambda net: net.conv1.perturb), "no fresh noise at conv2"),
    "by hand": (ByHand, "2 convolution calls, but noise after 1 (0 skipped on purpose)"),
    "by hand, inside another": (lambda: nn.Sequential(ByHand()), "2 convolution calls, but noise after 1"),
}


@pytest.mark.parametrize("name", DEAD)
def test_dead_noise_is_found(name):
    make, said = DEAD[name]
    net = make().eval()
    found = examine(net, IMAGES)
    assert any(said in failure for failure in found.failures), found.failures
    assert found.to_dict()["alive"] is False


def test_many_dead_sites_are_counted():
    net = perturbify.wrap(zoo.create("cifar_resnet20"), example_input=IMAGES)
    for _, site in perturbify.perturbations(net):
        site.theta.data.zero_()
    failures = examine(net, IMAGES).failures
    assert len(failures) == 2
    assert all("conv1, layer1.0.conv1, layer1.0.conv2 and 16 more sites" in f for f in failures)


def test_disabled_noise_is_enabled_only_while_examined():
    net = wrap().train()
    net.conv1.perturb.enabled = False
    net.conv2.eval()
    hooks = {n: len(m._forward_hooks) for n, m in net.named_modules()}
    modes = {n: m.training for n, m in net.named_modules()}
    assert examine(net, IMAGES).failures == []
    assert [p.enabled for _, p in perturbify.perturbations(net)] == [False, True]
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert {n: len(m._forward_hooks) for n, m in net.named_modules()} == hooks


def test_nothing_is_left_behind_after_an_error():
    net = wrap().train()
    with pytest.raises(perturbify.PerturbifyError):
        examine(net, torch.rand(2, 3, 9, 9))
    assert not any(m._forward_hooks for m in net.modules())
    assert net.training and net.conv1.training
