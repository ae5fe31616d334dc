"""What a timm model offers besides its forward: with the noise, or an error that says how to get it."""

import copy
import pickle

import pytest
import timm
import torch
from timm.models.resnetv2 import ResNetV2
from timm.optim import create_optimizer_v2
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import SurgeryError

MODELS = {
    "resnet": ("test_resnet", 64),
    "convnext": ("test_convnext", 64),
    "vit": ("test_vit", 160),
    "efficientnet": ("test_efficientnet", 64),
    "mobilenetv3, convolution in its head": ("mobilenetv3_small_050", 64),
}
DATA = ("pretrained_cfg", "default_cfg", "num_classes", "num_features", "head_hidden_size", "feature_info")
RUNNING = ("forward_features", "forward_head", "forward_intermediates")
CHANGING = ("reset_classifier", "set_grad_checkpointing", "prune_intermediate_layers")


@pytest.fixture(scope="module", params=MODELS)
def built(request):
    name, size = MODELS[request.param]
    torch.manual_seed(0)
    source = timm.create_model(name, num_classes=5).eval()
    x = torch.rand(2, 3, size, size)
    return source, x, *(perturbify.wrap(source, PerturbConfig(backend=b), example_input=x) for b in ("auto", "hook"))


@pytest.fixture
def graphed(built):
    """Source and network with its noise in a graph."""
    source, x, wrapped, _ = built
    assert {s.way for s in wrapped.surgery.plan.sites} == {"fx"}
    return copy.deepcopy(source), copy.deepcopy(wrapped), x


@pytest.fixture
def hooked(built):
    """Source and network with its noise in hooks."""
    source, x, _, wrapped = built
    assert {s.way for s in wrapped.surgery.plan.sites} == {"hook"}
    return copy.deepcopy(source), copy.deepcopy(wrapped), x


@pytest.fixture(params=["graphed", "hooked"])
def either(request, built):
    return request.getfixturevalue(request.param)


def equal(a, b):
    a, b = ([v] if isinstance(v, torch.Tensor) else [*v[1], v[0]] if isinstance(v, tuple) else v for v in (a, b))
    assert len(a) == len(b) > 0
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def differ(a, b):
    a, b = ([v] if isinstance(v, torch.Tensor) else [*v[1], v[0]] if isinstance(v, tuple) else v for v in (a, b))
    return all(not torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Works whatever the backend


def test_data_attributes(either):
    source, wrapped, _ = either
    for name in DATA:
        value = getattr(wrapped, name)
        assert str(value) == str(getattr(source, name)), name
        if name not in ("pretrained_cfg", "default_cfg", "feature_info"):
            assert value == getattr(source, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = wrapped.nonsense
    assert getattr(wrapped, "nonsense", None) is None


def test_methods_that_only_look(either):
    source, wrapped, x = either
    assert {id(p) for p in wrapped.get_classifier().parameters()} <= {id(p) for p in wrapped.parameters()}
    for coarse in (False, True):
        assert str(wrapped.group_matcher(coarse=coarse)) == str(source.group_matcher(coarse=coarse))
    assert hasattr(wrapped, "no_weight_decay") == hasattr(source, "no_weight_decay")
    if hasattr(source, "no_weight_decay"):
        assert wrapped.no_weight_decay() == source.no_weight_decay()
    with perturbify.noise(wrapped, enabled=False), torch.no_grad():
        assert torch.equal(wrapped(x), source(x))


def test_timms_optimizers_find_their_layers(either):
    _, wrapped, _ = either
    optimizer = create_optimizer_v2(wrapped, opt="sgd", lr=0.1, weight_decay=0.1, layer_decay=0.5)
    given = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert given.keys() == {id(p) for p in wrapped.parameters()}
    for site in wrapped.surgery.plan.sites:  # θ learns at the pace of its convolution
        owner = wrapped.get_submodule(site.owner)
        assert given[id(owner.perturb.theta)] == given[id(owner.weight)]


# In a graph


def test_a_graph_refuses_to_run_a_part_without_noise(graphed):
    source, wrapped, _ = graphed
    for name in RUNNING:
        assert hasattr(source, name) and not hasattr(wrapped, name)
        with pytest.raises(AttributeError, match=rf'{name} would run .* without its noise.*backend="hook".*unwrap'):
            getattr(wrapped, name)


def test_a_graph_refuses_changes_that_it_would_not_follow(graphed):
    source, wrapped, _ = graphed
    for name in CHANGING:
        assert hasattr(source, name)
        with pytest.raises(AttributeError, match=rf'{name} would change.*before perturbify\.wrap.*backend="hook"'):
            getattr(wrapped, name)


def test_changes_before_wrapping(graphed):
    source, _, x = graphed
    source.reset_classifier(3)
    source.set_grad_checkpointing()
    wrapped = perturbify.wrap(source, example_input=x)
    assert wrapped.num_classes == 3
    for training in (False, True):
        source.train(training), wrapped.train(training)
        with perturbify.noise(wrapped, enabled=False):
            assert torch.equal(wrapped(x), source(x))
    wrapped(x).sum().backward()
    assert all(p.theta.grad is not None for _, p in perturbify.perturbations(wrapped))


# In hooks


@pytest.mark.parametrize("name", ["forward_features", "forward_intermediates"])
def test_hooks_run_a_part_with_noise(hooked, name):
    source, wrapped, x = hooked
    with torch.no_grad():
        ours, theirs = getattr(wrapped, name), getattr(source, name)
        assert differ(ours(x), ours(x))
        with perturbify.noise(wrapped, enabled=False):
            assert equal(ours(x), theirs(x))


def test_hooks_run_the_head_with_what_noise_it_has(hooked):
    source, wrapped, x = hooked
    convolves = "conv_head" in {s.owner for s in wrapped.surgery.plan.sites} and isinstance(source.conv_head, nn.Conv2d)
    with torch.no_grad():
        features = source.forward_features(x)
        if convolves and type(source).__name__ == "MobileNetV3":
            assert differ(wrapped.forward_head(features), wrapped.forward_head(features))
        with perturbify.noise(wrapped, enabled=False):
            assert torch.equal(wrapped.forward_head(features), source.forward_head(features))
            assert torch.equal(wrapped.forward_head(wrapped.forward_features(x)), source(x))


def test_hooks_take_a_new_classifier(hooked):
    source, wrapped, x = hooked
    sites = [n for n, _ in perturbify.perturbations(wrapped)]
    wrapped.reset_classifier(3)
    assert wrapped.num_classes == 3
    assert wrapped(x).shape == (2, 3)
    assert [n for n, _ in perturbify.perturbations(wrapped)] == sites
    with torch.no_grad():
        assert not torch.equal(wrapped(x), wrapped(x))
    bare = perturbify.unwrap(wrapped)
    assert type(bare) is type(source)
    assert bare.get_classifier().out_features == 3


def test_gradients_of_checkpointed_hooks(hooked):
    _, wrapped, x = hooked
    wrapped.train()
    gradients = []
    for checkpointed in (False, True):
        network = copy.deepcopy(wrapped)
        network.set_grad_checkpointing(checkpointed)
        torch.manual_seed(3)
        network(x.clone().requires_grad_()).square().sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_hooks_do_not_let_pruning_take_their_noise(hooked):
    source, wrapped, x = hooked
    if type(source).__name__ == "VisionTransformer":  # what it prunes does not convolve
        assert wrapped.prune_intermediate_layers([0]) == source.prune_intermediate_layers([0])
        with perturbify.noise(wrapped, enabled=False):
            assert torch.equal(wrapped(x), source(x))
        return
    with pytest.raises(SurgeryError, match=r"prune_.* would replace or remove a conv.*before perturbify\.wrap"):
        wrapped.prune_intermediate_layers([0])
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(x), source(x))  # as it was
    assert wrapped.num_classes == source.num_classes


def resnetv2(num_classes):
    """A network whose classifier is a convolution."""
    return ResNetV2((1, 1, 1, 1), channels=(128, 128, 128, 128), num_classes=num_classes, stem_chs=32).eval()


def test_a_classifier_that_is_a_convolution_with_noise():
    source, x = resnetv2(5), torch.rand(2, 3, 64, 64)
    wrapped = perturbify.wrap(source, PerturbConfig(backend="hook"), example_input=x)
    assert "head.fc" in {s.owner for s in wrapped.surgery.plan.sites}
    before = copy.deepcopy(wrapped.state_dict())
    with pytest.raises(SurgeryError, match=r"would replace or remove a convolution with noise, head\.fc; .* as it was"):
        wrapped.reset_classifier(3)
    after = wrapped.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    assert wrapped.num_classes == 5
    assert not torch.equal(wrapped(x), wrapped(x))
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(x), source(x))
        assert torch.equal(pickle.loads(pickle.dumps(wrapped))(x), source(x))


def test_a_new_classifier_that_is_a_convolution_without_noise():
    x = torch.rand(2, 3, 64, 64)
    wrapped = perturbify.wrap(resnetv2(0), PerturbConfig(backend="hook"), example_input=x)
    with pytest.raises(SurgeryError, match=r"would add a convolution without noise, head\.fc"):
        wrapped.reset_classifier(3)
    assert wrapped(x).shape == (2, 128)


def test_a_classifier_that_was_left_out_may_be_replaced():
    x = torch.rand(2, 3, 64, 64)
    wrapped = perturbify.wrap(resnetv2(5), PerturbConfig(backend="hook", exclude=("head.fc",)), example_input=x)
    wrapped.reset_classifier(3)
    assert wrapped(x).shape == (2, 3)


# Networks of one's own


class Own(nn.Module):
    """Class attributes of every make."""

    stride = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)

    @property
    def device(self):
        return self.conv.weight.device

    @property
    def blind(self):
        return self.conv(torch.ones(1, 3, 8, 8))

    @property
    def broken(self):
        raise AttributeError("it has none")

    @staticmethod
    def scale(x):
        return x / 255

    @classmethod
    def small(cls):
        return cls()

    def get_classifier(self):
        return self.conv

    def again(self, x):
        return self.forward(self.forward(x)[:, :3])

    def __deepcopy__(self, memo):
        twin = Own()
        twin.load_state_dict(self.state_dict(), strict=False)
        return twin.train(self.training)


X = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize("backend", ["auto", "hook"])
def test_attributes_of_a_class(backend):
    wrapped = perturbify.wrap(Own(), PerturbConfig(backend=backend), example_input=X)
    assert wrapped.stride == 4
    assert wrapped.device == torch.device("cpu")
    assert wrapped.scale(255) == 1
    assert type(wrapped.small()) is Own
    assert wrapped.get_classifier() is wrapped.conv
    with pytest.raises(AttributeError):
        _ = wrapped.broken
    if backend == "auto":
        for name in ("blind", "again"):
            with pytest.raises(AttributeError, match=f"Own.{name} would run"):
                getattr(wrapped, name)
    else:
        assert not torch.equal(wrapped.blind, wrapped.blind)
        with pytest.raises(SurgeryError, match="conv#1: this module is called more often"):
            wrapped.again(X)


@pytest.mark.parametrize("backend", ["auto", "hook"])
def test_a_copy_is_perturbed_whatever_the_class_says_of_copies(backend):
    wrapped = perturbify.wrap(Own(), PerturbConfig(backend=backend), example_input=X)
    double = copy.deepcopy(wrapped)
    assert type(double) is type(wrapped)
    assert not torch.equal(double(X), double(X))


def test_a_partly_hooked_network_is_a_graph_still():
    source = timm.create_model("efficientvit_b0", num_classes=5).eval()
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=torch.rand(2, 3, 64, 64))
    assert {s.way for s in wrapped.surgery.plan.sites} == {"fx", "hook"}
    assert wrapped.get_classifier().out_features == 5
    with pytest.raises(AttributeError, match="without its noise"):
        _ = wrapped.forward_features
