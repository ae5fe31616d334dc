"""How widely what is perturbed varies, and θ that starts at a share of that."""

import copy
import math

import pytest
import timm
import torch
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.spread import relative_noise, spreads
from perturbify.surgery.wrap import wrap
from perturbify.zoo.cifar_resnet import cifar_resnet

X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution that runs twice, and one in train mode alone."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.twice = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.drop, self.aux = nn.Dropout(0.5), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.norm(self.stem(x))
        x = self.twice(self.twice(x).relu() * 3)
        return (x, self.aux(self.drop(x))) if self.training else x


class Same(Net):
    """The same in both modes."""

    def forward(self, x):
        return self.aux(self.twice(self.norm(self.stem(x))))


def made(kind=Net, **settings):
    torch.manual_seed(0)
    source = kind()
    return source, wrap(source, PerturbConfig(**settings), example_input=X)


def standard_deviations(source, site, x=X):
    """By hooks of this test's own, on the source: of every convolution's input or output, in eval mode."""
    found = {}

    def note(name):
        return lambda m, i, o: found.setdefault(name, []).append((i[0] if site == "input" else o).double())

    network = copy.deepcopy(source).eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        network(x)
    return {name: [v.std().item() for v in values] for name, values in found.items()}


@pytest.mark.parametrize("site", ["output", "input"])
@pytest.mark.parametrize("kind", [Net, lambda: cifar_resnet(20), lambda: timm.create_model("test_byobnet")])
def test_theta_starts_as_a_share_of_each_activation(kind, site):
    source, wrapped = made(kind, site=site, theta_init="0.1x", theta_min=None, grain="channel")
    expected = standard_deviations(source, site)
    thetas = {name: p.theta for name, p in perturbify.perturbations(wrapped)}
    checked = 0
    for owner, values in expected.items():
        for call, value in enumerate(values):
            theta = thetas[owner + (f"#{call}" if call else "")]
            assert theta.detach().numpy() == pytest.approx(0.1 * value, rel=1e-4)
            checked += 1
    assert checked == len(thetas) - (kind is Net)
    measured = relative_noise(wrapped, X)
    varying = [name for name, value in spreads(wrapped, X).items() if value > 0]  # a gate may be constant at first
    assert len(varying) > 0.7 * len(thetas)
    assert [measured[name] for name in varying] == pytest.approx([0.1] * len(varying), rel=1e-4)


def test_a_train_mode_site_is_measured_in_training():
    source, wrapped = made(theta_init="0.1x", theta_min=None, grain="layer")
    theta = wrapped.aux.perturb.theta.item()
    network = copy.deepcopy(source).train()
    with torch.no_grad():
        values = [network(X)[1].std().item() for _ in range(50)]  # dropout draws anew
    assert 0.1 * min(values) * 0.9 < theta < 0.1 * max(values) * 1.1
    assert math.isnan(spreads(wrapped, X)["aux"])
    assert not math.isnan(spreads(wrapped, X)["stem"])


def test_measuring_leaves_everything_as_it_was():
    torch.manual_seed(0)
    source = Net().train()
    source.norm.eval()
    before = {k: v.clone() for k, v in source.state_dict().items()}
    wrapped = wrap(source, PerturbConfig(theta_init="0.1x"), example_input=X)
    state = {k: v.clone() for k, v in wrapped.state_dict().items()}
    modes = [m.training for m in wrapped.modules()]
    generator = torch.get_rng_state()
    spreads(wrapped, X)
    relative_noise(wrapped, X)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in wrapped.modules()] == modes
    assert not wrapped.norm.training
    assert all(p.enabled for _, p in perturbify.perturbations(wrapped))
    assert all(not p._forward_pre_hooks for _, p in perturbify.perturbations(wrapped))
    assert all(torch.equal(v, state[k]) for k, v in wrapped.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in source.state_dict().items())
    assert all(torch.equal(v, wrapped.state_dict()[k]) for k, v in before.items())


def test_shared_thetas_use_the_calls_mean_variance():
    source, wrapped = made(theta_per="module", theta_init="0.1x", theta_min=None, grain="layer")
    one, two = standard_deviations(source, "output")["twice"]
    assert one != pytest.approx(two, rel=0.2)
    assert wrapped.twice.perturb.theta.item() == pytest.approx(0.1 * math.sqrt((one**2 + two**2) / 2), rel=1e-4)


def test_theta_first_and_theta_min_still_apply():
    _, wrapped = made(theta_init="0.1x", theta_first=0.7, theta_min=None, grain="layer")
    thetas = {name: p.theta.item() for name, p in perturbify.perturbations(wrapped)}
    assert thetas["stem"] == pytest.approx(0.7)
    assert thetas["twice"] < 0.2
    _, wrapped = made(theta_init="1e-3x", theta_min=0.05)
    assert all((p.theta == 0.05).all() for _, p in perturbify.perturbations(wrapped))


def test_weights():
    source, wrapped = made(Same, site="parameter", theta_init="0.5x", theta_min=None)
    measured = spreads(wrapped, X)
    for name, parameter in source.named_parameters():
        value = parameter.std().item()
        assert measured[name] == pytest.approx(value, rel=1e-5)
        assert dict(perturbify.perturbations(wrapped))[name].theta.flatten()[0].item() == pytest.approx(0.5 * value)
    ratios = relative_noise(wrapped, X)
    assert ratios["twice.weight"] == pytest.approx(0.5)
    assert math.isnan(ratios["norm.weight"])  # all ones


@pytest.mark.parametrize(("scale", "start"), [("relative", -0.2), ("posterior", math.log(0.3))])
def test_the_meaning_of_theta_on_other_scales(scale, start):
    _, wrapped = made(Same, site="weight", scale=scale, theta_init=start, theta_min=None)
    deviation = spreads(wrapped, X)["stem.weight"]
    expected = 0.2 if scale == "relative" else 0.3 / deviation
    assert relative_noise(wrapped, X)["stem.weight"] == pytest.approx(expected, rel=1e-5)


def test_on_the_meta_device_nothing_is_measured():
    with torch.device("meta"):
        wrapped = wrap(Net(), PerturbConfig(theta_init="0.1x"), example_input=torch.empty(4, 3, 16, 16))
    assert all(p.is_meta for p in wrapped.parameters())


@pytest.mark.parametrize("wrong", ["0.1", "x", "-1x", "0x", "infx", "0.1 x"])
def test_invalid_starting_values(wrong):
    with pytest.raises(ValueError, match=r'theta_init must be a number or a string such as "0.1x"'):
        PerturbConfig(theta_init=wrong)
    with pytest.raises(ValueError, match=r"theta_init '0.1x' measures activations"):
        PerturbConfig(theta_init="0.1x", scale="posterior", theta_min=None)
