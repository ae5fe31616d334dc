"""Real networks of many families: with the noise off each is its source, with the noise on every call is noisy."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils import _pytree as pytree

import perturbify
from perturbify import PerturbConfig
from perturbify.checks.liveness import ConvolutionCount

MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def tv(name, **options):
    return torchvision.models.get_model(name, weights=None, **options)


def small_vgg():
    network = tv("vgg11_bn")
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Dropout(), nn.Linear(512, 10))
    return network


def fcn():
    return tv("fcn_resnet50", weights_backbone=None, aux_loss=True)


NETWORKS = {
    "resnet": (lambda: tv("resnet18"), (3, 64, 64)),
    "resnet, drop rates": (lambda: timm.create_model("resnet10t", drop_rate=0.2, drop_path_rate=0.3), (3, 64, 64)),
    "densenet, drop rate": (lambda: tv("densenet121", drop_rate=0.2), (3, 32, 32)),
    "mobilenetv3": (lambda: timm.create_model("mobilenetv3_small_050", drop_rate=0.2), (3, 64, 64)),
    "efficientnet, Conv2dSame": (lambda: timm.create_model("tf_efficientnet_b0", drop_path_rate=0.3), (3, 64, 64)),
    "convnext, drop path": (lambda: timm.create_model("convnext_atto", drop_path_rate=0.3), (3, 64, 64)),
    "regnet": (lambda: timm.create_model("regnety_002", drop_path_rate=0.2), (3, 64, 64)),
    "vgg": (small_vgg, (3, 32, 32)),
    "shufflenet": (lambda: tv("shufflenet_v2_x0_5"), (3, 64, 64)),
    "googlenet, auxiliary heads": (lambda: tv("googlenet", init_weights=False, aux_logits=True), (3, 64, 64)),
    "vit": (lambda: timm.create_model("test_vit", drop_rate=0.1, drop_path_rate=0.2), (3, 160, 160)),
    "nfnet, ScaledStdConv": (lambda: timm.create_model("test_nfnet", drop_path_rate=0.2), (3, 64, 64)),
    "byobnet": (lambda: timm.create_model("test_byobnet"), (3, 64, 64)),
    "ghostnet": (lambda: timm.create_model("ghostnet_050", drop_rate=0.2), (3, 64, 64)),
    "blur-pool": (lambda: timm.create_model("resnetblur18"), (3, 64, 64)),
    "efficientformerv2, bias buffers": (lambda: timm.create_model("efficientformerv2_s0"), (3, 224, 224)),
    "segmentation, OrderedDict": (fcn, (3, 32, 32)),
    "video, Conv3d": (lambda: tv("r3d_18"), (3, 4, 32, 32)),
}

SLOW_NETWORKS = {
    "convnext of torchvision": (lambda: tv("convnext_tiny", stochastic_depth_prob=0.5), (3, 32, 32)),
    "squeezenet": (lambda: tv("squeezenet1_1"), (3, 64, 64)),
    "inception": (lambda: tv("inception_v3", init_weights=False, aux_logits=False), (3, 96, 96)),
    "swin_v2": (lambda: tv("swin_v2_t"), (3, 64, 64)),
}


@pytest.fixture(
    scope="module", params=[*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_NETWORKS)]
)
def pair(request):
    make, shape = (NETWORKS | SLOW_NETWORKS)[request.param]
    torch.manual_seed(0)
    source = make()
    return source, perturbify.wrap(source, example_input=torch.rand(2, *shape)), shape


def run(network, x, training):
    """Output and buffers of a forward on a copy, with the same seed for all."""
    network = copy.deepcopy(network).train(training)
    torch.manual_seed(5)
    with torch.no_grad():
        return network(x), dict(network.named_buffers())


def assert_equal(a, b):
    assert type(a) is type(b)
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert len(left) == len(right) > 0
    for x, y in zip(left, right, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def differ(a, b):
    return all(not torch.equal(x, y) for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True))


@MODES
@pytest.mark.parametrize("batch", [2, 5])
def test_noise_off_matches_the_source(pair, training, batch):
    source, wrapped, shape = pair
    x = torch.rand(batch, *shape)
    want, buffers = run(source, x, training)
    with perturbify.noise(wrapped, enabled=False):
        got, our_buffers = run(wrapped, x, training)
    assert_equal(got, want)
    for name, value in buffers.items():
        assert torch.equal(our_buffers[name], value), name


def test_theta_zero_matches_the_source(pair):
    source, wrapped, shape = pair
    x = torch.rand(3, *shape)
    silent = copy.deepcopy(wrapped)
    with torch.no_grad():
        for _, perturbation in perturbify.perturbations(silent):
            perturbation.theta.zero_()
    assert_equal(run(silent, x, False)[0], run(source, x, False)[0])


def test_every_convolution_call_is_noisy_in_eval(pair):
    _, wrapped, shape = pair
    x = torch.rand(2, *shape)
    wrapped = copy.deepcopy(wrapped).eval()
    changed = {}
    for name, perturbation in perturbify.perturbations(wrapped):
        perturbation.register_forward_hook(
            lambda _m, inputs, output, name=name: changed.update({name: (inputs[0] != output).float().mean() > 0.99})
        )
    with ConvolutionCount() as count, torch.no_grad():
        one = wrapped(x)
    with torch.no_grad():
        two = wrapped(x)
    assert differ(one, two)
    sites = [s for s in wrapped.surgery.plan.sites if s.modes in ("eval", "both")]
    assert changed == {s.name: True for s in sites}
    assert count.total == len(sites) + len(wrapped.surgery.plan.skipped)


@MODES
def test_there_are_as_many_sites_as_convolutions(pair, training):
    source, wrapped, shape = pair
    mode = "train" if training else "eval"
    with ConvolutionCount() as count:
        run(source, torch.rand(2, *shape), training)
    sites = [s for s in wrapped.surgery.plan.sites if s.modes in (mode, "both")]
    assert count.total == len(sites) + len(wrapped.surgery.plan.skipped)


def test_every_key_of_the_source_survives(pair):
    source, wrapped, _ = pair
    ours = wrapped.state_dict()
    thetas = {f"{s.path}.theta" for s in wrapped.surgery.plan.sites}
    assert set(ours) == set(source.state_dict()) | thetas
    for name, value in source.state_dict().items():
        assert torch.equal(ours[name], value)


def test_auxiliary_heads_are_train_mode_sites_only():
    network = tv("googlenet", init_weights=False, aux_logits=True)
    wrapped = perturbify.wrap(network, PerturbConfig(grain="channel"), example_input=torch.rand(2, 3, 64, 64))
    train_only = [s.name for s in wrapped.surgery.plan.sites if s.modes == "train"]
    assert train_only == ["aux1.conv.conv", "aux2.conv.conv"]
    assert type(wrapped.train()(torch.rand(2, 3, 64, 64))).__name__ == "GoogLeNetOutputs"
    assert isinstance(wrapped.eval()(torch.rand(2, 3, 64, 64)), torch.Tensor)


def test_fixed_blur_filters_are_skipped():
    wrapped = perturbify.wrap(timm.create_model("resnetblur18"), example_input=torch.rand(2, 3, 64, 64))
    assert {s.reason for s in wrapped.surgery.plan.skipped} == {"fixed filter, nothing learned"}
    assert len(wrapped.surgery.plan.skipped) == 4


def test_the_size_comes_from_pretrained_cfg():
    wrapped = perturbify.wrap(timm.create_model("test_resnet"))
    assert wrapped.surgery.plan.input_shapes == ((3, 160, 160),)
    assert wrapped.num_classes == 1000
    assert wrapped.pretrained_cfg["input_size"] == (3, 160, 160)
