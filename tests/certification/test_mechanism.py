"""The mechanism inside of a network: its sensitivity, its projection, and the networks that have none."""

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import perturbify
from perturbify.certification import find_mechanism, verify
from perturbify.certification.mechanism import Mechanism
from perturbify.errors import MethodError
from perturbify.methods import get
from perturbify.normalize import Normalize

NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.1, 0.2, 0.5))


def classifier(first=None, channels=4):
    """A small network: a first layer, and what makes logits of its feature map."""
    return nn.Sequential(
        first if first is not None else nn.Conv2d(3, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


def pixeldp(network, **how):
    return perturbify.wrap(network, method="pixeldp", example_input=torch.rand(2, 3, 8, 8), **how)


def jacobian(mechanism, normalize):
    """The matrix from pixels to the first feature map, noise off."""
    shape = (3, *mechanism.size)
    pixels = torch.cat([torch.zeros(1, *shape), torch.eye(math.prod(shape)).view(-1, *shape)]).double()
    convolution = copy.deepcopy(mechanism.convolution).double()
    with torch.no_grad():
        maps = convolution._conv_forward(normalize(pixels), convolution.weight, convolution.bias).flatten(1)
    return (maps[1:] - maps[0]).T


# Sensitivity


@pytest.mark.parametrize(
    "first",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 4, stride=2, padding=1, padding_mode="circular"),
        nn.Conv2d(3, 6, 3, padding="same", dilation=2, groups=3),
    ],
)
def test_the_bound_holds_with_normalisation_and_padding(first):
    torch.manual_seed(0)
    first.reset_parameters()
    network = pixeldp(classifier(first, first.out_channels), normalize=NORMALIZE)
    mechanism = verify(network)
    exact = torch.linalg.matrix_norm(jacobian(mechanism, network.normalize), 2).item()
    assert 0.6 * mechanism.sensitivity < exact <= mechanism.sensitivity


@pytest.mark.parametrize(("dilation", "groups"), [(1, 1), (1, 3), (3, 1)])
def test_the_sensitivity_is_exact_for_circular_convolutions(dilation, groups):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 6, 3, padding="same", dilation=dilation, groups=groups, padding_mode="circular")
    network = pixeldp(classifier(first, 6), normalize=NORMALIZE)
    mechanism = find_mechanism(network)
    exact = torch.linalg.matrix_norm(jacobian(mechanism, network.normalize), 2).item()
    assert mechanism.sensitivity == pytest.approx(exact, rel=1e-5)


def test_a_worst_case_search_never_exceeds_the_bound():
    """Gradient ascent, from random starts, on how far the feature map moves for each unit that the image moves."""
    torch.manual_seed(0)
    network = pixeldp(classifier(channels=8), normalize=NORMALIZE)
    mechanism = find_mechanism(network)
    image = torch.rand(1, 3, 8, 8)

    def feature_map(x):
        return mechanism.convolution._conv_forward(network.normalize(x), mechanism.convolution.weight, None)

    step = torch.randn(16, 3, 8, 8).requires_grad_()
    optimiser = torch.optim.Adam([step], lr=0.1)
    for _ in range(300):
        ratio = (feature_map(image + step) - feature_map(image)).flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)
        optimiser.zero_grad()
        (-ratio.sum()).backward()
        optimiser.step()
    worst = ratio.max().item()
    assert 0.8 * mechanism.sensitivity < worst <= mechanism.sensitivity


def test_another_image_size_has_another_bound():
    mechanism = find_mechanism(pixeldp(classifier()))
    assert mechanism.size == (8, 8)
    larger = mechanism.on(torch.rand(1, 3, 16, 12))
    assert larger.size == (16, 12) and larger.sensitivity != mechanism.sensitivity
    with pytest.raises(MethodError, match="3 channels"):
        mechanism.on(torch.rand(1, 1, 8, 8))  # which normalisation would spread over three
    with pytest.raises(MethodError, match=r"shape \(3, 8, 8\)"):
        mechanism.on(torch.rand(3, 8, 8))


def test_the_greatest_radius_is_pixeldps_bound():
    network = pixeldp(classifier())
    mechanism = find_mechanism(network)
    mechanism.limit_(1.0)
    assert mechanism.greatest_radius == pytest.approx(0.1, rel=1e-5) and mechanism.greatest_radius >= 0.1


# Projection


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projecting_the_convolution(dtype):
    torch.manual_seed(0)
    network = pixeldp(classifier(), normalize=NORMALIZE).to(dtype)
    mechanism = find_mechanism(network)
    before = mechanism.convolution.weight.detach().clone()
    assert mechanism.sensitivity > 5
    get("pixeldp").project_(network)
    assert 0.95 < mechanism.sensitivity <= 1
    direction = F.cosine_similarity(before.float().flatten(), mechanism.convolution.weight.float().flatten(), dim=0)
    assert direction > 0.9999
    after = mechanism.convolution.weight.detach().clone()
    for bound in (1.0, 7.0):
        mechanism.limit_(bound)
        assert torch.equal(mechanism.convolution.weight, after)


def test_every_projected_network_is_within_the_bound():
    """Also after rounding, whatever the weights: 50 random ones, of very different sizes of entry."""
    generator = torch.Generator().manual_seed(0)
    mechanism = find_mechanism(pixeldp(classifier()))
    for _ in range(50):
        weight = mechanism.convolution.weight
        size, sign = torch.randn(2, *weight.shape, generator=generator)
        random = sign * 10 ** (2 * size)
        weight.data.copy_(random / random.abs().max() * 3)
        mechanism.limit_(1.0)
        assert mechanism.sensitivity <= 1


def test_weights_that_are_not_finite_are_left_alone():
    mechanism = find_mechanism(pixeldp(classifier()))
    mechanism.convolution.weight.data[0, 0, 0, 0] = float("nan")
    before = mechanism.convolution.weight.detach().clone()
    mechanism.limit_(1.0)
    assert torch.equal(mechanism.convolution.weight.nan_to_num(), before.nan_to_num())


# Noise


def test_sigma_is_the_least_theta():
    network = perturbify.wrap(
        classifier(),
        perturbify.PerturbConfig(grain="channel", theta_min=None, theta_init=0.5, learnable=False, extent="first"),
        method="pixeldp",
        example_input=torch.rand(2, 3, 8, 8),
    )
    mechanism = find_mechanism(network)
    mechanism.perturbation.theta.data[2] = 0.125
    assert mechanism.sigma == 0.125
    with perturbify.noise(network, enabled=False):
        assert mechanism.sigma == 0
    for bad in (0.0, -0.3, float("nan")):
        mechanism.perturbation.theta.data[1] = bad
        with pytest.raises(MethodError, match="standard deviation"):
            _ = mechanism.sigma


# What is certified


@pytest.mark.parametrize("normalize", [None, NORMALIZE])
def test_verifying_leaves_a_sound_network_unchanged(normalize):
    config = perturbify.PerturbConfig(grain="layer", theta_init=0.25, theta_min=None, learnable=False, extent="first")
    network = pixeldp(classifier(), config=config, normalize=normalize).train()
    network.get_submodule("1").eval()
    before, learning = copy.deepcopy(network.state_dict()), [p.requires_grad for p in network.parameters()]
    random = torch.get_rng_state()
    mechanism = verify(network)
    assert isinstance(mechanism, Mechanism) and mechanism.convolution is network.get_submodule("0")
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training and not network.get_submodule("1").training
    assert [p.requires_grad for p in network.parameters()] == learning
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not mechanism.convolution._forward_pre_hooks
    assert not mechanism.perturbation._forward_hooks and not mechanism.perturbation._forward_pre_hooks


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet_ln"])
def test_networks_of_timms(name):
    network = perturbify.wrap(timm.create_model(name), method="pixeldp")
    assert verify(network).sensitivity > 0


def test_a_network_on_meta_is_only_inspected():
    with torch.device("meta"):
        network = pixeldp(classifier())
    assert verify(network).convolution is network.get_submodule("0")


# What is refused, when it is wrapped


def refusal(network, **how):
    with pytest.raises(MethodError) as error:
        pixeldp(network, **how)
    assert error.value.hint
    return error.value.message


class Brighter(nn.Module):
    def forward(self, x):
        return x * 1.0001


@pytest.mark.parametrize("before", [nn.BatchNorm2d(3), Brighter(), nn.AvgPool2d(2), nn.ZeroPad2d(1)])
def test_an_operation_before_the_convolution(before):
    assert "1 does not take the image itself" in refusal(nn.Sequential(before, *classifier()))
    assert "1 does not take the image itself" in refusal(nn.Sequential(before, *classifier()), normalize=NORMALIZE)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (timm.layers.StdConv2d(3, 4, 3, padding=1), "StdConv2d has a forward of its own"),
        (timm.layers.Conv2dSame(3, 4, 3, stride=2), "Conv2dSame has a forward of its own"),
        (nn.ConvTranspose2d(3, 4, 3, padding=1), "it is a ConvTranspose2d"),
        (parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "its weight is computed from other parameters"),
        (parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), "its weight is computed from other parameters"),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "it is padded by 'reflect'"),
    ],
)
def test_convolutions_without_a_known_bound(first, reason):
    assert f"The sensitivity of 0 has no known bound: {reason}" in refusal(classifier(first))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(10, 3, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.kernel).mean((2, 3))


def test_a_functional_convolution():
    assert "has no known bound: it is a Functional" in refusal(nn.Sequential(Functional(), nn.Flatten()))


class Past(nn.Module):
    """A network whose answer sees the image beside its first convolution."""

    def __init__(self, way):
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)
        self.other = nn.Conv2d(3, 10, 3, padding=1)
        self.way = way

    def forward(self, x):
        y = self.conv(x)
        if self.way == "skip":
            y = y + x.mean(1, keepdim=True)
        elif self.way == "gate":
            y = y * x.mean((1, 2, 3), keepdim=True)
        elif self.way == "other convolution":
            y = y + self.other(x)
        elif self.way == "unseen by autograd":
            y = y + x.detach().mean(1, keepdim=True)
        elif self.way == "no gradient at these values":
            y = y + F.relu(x[:, :1] - 5)
        elif self.way == "brightness":
            y = y * (1 - 2 * (x.detach().mean((1, 2, 3), keepdim=True) > 0.8).to(y))
        elif self.way == "a pixel":
            y = y + (x.detach().amax((2, 3)) > 2 * x.detach().mean((2, 3)) + 0.3).to(y).mean(1)[:, None, None, None]
        return y.relu().mean((2, 3))


@pytest.mark.parametrize(
    "way",
    ["skip", "gate", "other convolution", "unseen by autograd", "no gradient at these values", "brightness", "a pixel"],
)
def test_paths_around_the_noise(way):
    assert "depends on the image past the noise behind conv" in refusal(Past(way))


def test_the_same_network_without_those_paths():
    verify(pixeldp(Past("none")))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)

    def forward(self, x):
        return (self.conv(x) + self.conv(x.flip(3))).mean((2, 3))


def test_a_convolution_that_is_called_twice():
    for how in ({}, {"theta_per": "module"}):
        config = perturbify.PerturbConfig(grain="layer", theta_min=None, learnable=False, extent="first", **how)
        assert "conv is called 2 times" in refusal(Twice(), config=config)


class Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)

    def forward(self, x):
        return self.conv(x).mean((2, 3)) if x.sum() == 0 else x.new_ones(len(x), 10)


def test_a_convolution_that_only_some_images_reach():
    with pytest.raises(
        MethodError, match=r"is called 0\.14 times and the noise behind it is added 0\.14 times, instead of once"
    ):
        perturbify.wrap(Sometimes(), method="pixeldp", example_input=torch.zeros(2, 3, 8, 8))


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)

        def forward(self, x, mask):
            return (self.conv(x)).mean((2, 3)) * mask

    with pytest.raises(MethodError, match="takes 2 tensors"):
        perturbify.wrap(Two(), method="pixeldp", example_input=(torch.rand(2, 3, 8, 8), torch.rand(2, 1)))


# What is refused later


class Gained(nn.Module):
    """The image times a parameter goes into the convolution, and at size 8 as it is."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.conv = nn.Conv2d(3, 10, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x * self.gain, size=(8, 8))).mean((2, 3))


def test_changed_weights_and_new_sizes_are_checked_again():
    network, images = pixeldp(Gained()), torch.rand(2, 3, 8, 8)
    perturbify.predict(network, images, draws=1)
    with pytest.raises(MethodError, match="conv does not take the image itself"):
        perturbify.predict(network, images[..., :4, :4], draws=1)
    network.gain.data.fill_(20)
    with pytest.raises(MethodError, match="conv does not take the image itself"):
        perturbify.predict(network, images, draws=1)


def test_outputs_that_depend_on_the_batch():
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(6))
    network = nn.Sequential(*first, nn.Flatten(), nn.Linear(4, 3))
    assert "depends on the rest of its batch" in refusal(network)


def test_hooks_added_later():
    network = pixeldp(classifier())
    first = network.get_submodule("0")
    first.register_forward_hook(lambda _m, _i, output: 3 * output)
    verify(network)  # it comes behind the noise, and what is computed from that is as private
    first.register_forward_pre_hook(lambda _m, inputs: (3 * inputs[0],))
    with pytest.raises(MethodError, match="does not take the image itself"):
        verify(network)


@pytest.mark.parametrize("method", ["learn2perturb", "rse", "none"])
def test_networks_of_other_methods(method):
    network = perturbify.wrap(classifier(), method=method, example_input=torch.rand(2, 3, 8, 8))
    with pytest.raises(MethodError, match=rf"method of this network is {method}\.") as error:
        find_mechanism(network)
    assert "docs/certify.md" in error.value.hint
