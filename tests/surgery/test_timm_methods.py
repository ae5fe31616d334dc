"""What a timm model offers besides its forward works on its wrapped form, and with the noise."""

import copy
import pickle

import pytest
import timm
import torch
from timm.models.resnetv2 import ResNetV2
from timm.optim import create_optimizer_v2
from timm.utils.model import reparameterize_model
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
    "efficientvit, which branches on shapes": ("efficientvit_b0", 64),
}
DATA = ("pretrained_cfg", "default_cfg", "num_classes", "num_features", "head_hidden_size", "feature_info")


@pytest.fixture(scope="module", params=MODELS)
def built(request):
    name, size = MODELS[request.param]
    torch.manual_seed(0)
    source = timm.create_model(name, num_classes=5).eval()
    x = torch.rand(2, 3, size, size)
    return source, perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=x), x


@pytest.fixture
def pair(built):
    """Source, wrapped network, and a batch, for a test to change."""
    source, wrapped, x = built
    return copy.deepcopy(source), copy.deepcopy(wrapped), x


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


def equal(a, b):
    return len(leaves(a)) == len(leaves(b)) > 0 and all(map(torch.equal, leaves(a), leaves(b)))


def differ(a, b):
    return all(not torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def test_data_attributes(pair):
    source, wrapped, _ = pair
    assert isinstance(wrapped, type(source))
    for name in DATA:
        if hasattr(source, name):
            assert str(getattr(wrapped, name)) == str(getattr(source, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = wrapped.nonsense
    assert getattr(wrapped, "nonsense", None) is None


def test_read_only_methods(pair):
    source, wrapped, x = pair
    assert {id(p) for p in wrapped.get_classifier().parameters()} <= {id(p) for p in wrapped.parameters()}
    for coarse in (False, True):
        assert str(wrapped.group_matcher(coarse=coarse)) == str(source.group_matcher(coarse=coarse))
    with perturbify.noise(wrapped, enabled=False), torch.no_grad():
        assert torch.equal(wrapped(x), source(x))


def test_theta_has_no_weight_decay(pair):
    source, wrapped, _ = pair
    thetas = {f"{s.path}.theta" for s in wrapped.surgery.plan.sites}
    theirs = source.no_weight_decay() if hasattr(source, "no_weight_decay") else set()
    assert wrapped.no_weight_decay() == theirs | thetas
    optimizer = create_optimizer_v2(wrapped, opt="sgd", lr=0.1, weight_decay=0.1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    plain = create_optimizer_v2(source, opt="sgd", lr=0.1, weight_decay=0.1)
    assert len(decayed) == sum(len(g["params"]) for g in plain.param_groups if g["weight_decay"])
    assert not decayed & {id(p.theta) for _, p in perturbify.perturbations(wrapped)}


def test_timms_layer_decay_includes_theta(pair):
    _, wrapped, _ = pair
    optimizer = create_optimizer_v2(wrapped, opt="sgd", lr=0.1, weight_decay=0.1, layer_decay=0.5)
    given = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert given.keys() == {id(p) for p in wrapped.parameters()}
    for site in wrapped.surgery.plan.sites:  # θ learns at the pace of its convolution
        owner = wrapped.get_submodule(site.owner)
        assert given[id(owner.perturb.theta)] == given[id(owner.weight)]


@pytest.mark.parametrize("name", ["forward_features", "forward_intermediates"])
def test_a_partial_forward_is_noisy_too(pair, name):
    source, wrapped, x = pair
    if not hasattr(source, name):
        pytest.skip("timm's model has no such method")
    with torch.no_grad():
        ours, theirs = getattr(wrapped, name), getattr(source, name)
        assert differ(ours(x), ours(x))
        with perturbify.noise(wrapped, enabled=False):
            assert equal(ours(x), theirs(x))


def test_noise_inside_the_head_stays_active(pair):
    source, wrapped, x = pair
    with torch.no_grad():
        features = source.forward_features(x)
        if type(source).__name__ == "MobileNetV3":
            assert differ(wrapped.forward_head(features), wrapped.forward_head(features))
        with perturbify.noise(wrapped, enabled=False):
            assert torch.equal(wrapped.forward_head(features), source.forward_head(features))
            assert torch.equal(wrapped.forward_head(wrapped.forward_features(x)), source(x))


def test_a_new_classifier(pair):
    source, wrapped, x = pair
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


def test_gradients_of_checkpointed_blocks(pair):
    _, wrapped, x = pair
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


def test_changes_before_wrapping(pair):
    source, _, x = pair
    source.reset_classifier(3)
    source.set_grad_checkpointing()
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=x)
    assert wrapped.num_classes == 3
    wrapped(x).sum().backward()
    assert all(p.theta.grad is not None for _, p in perturbify.perturbations(wrapped))


def test_pruned_layers_lose_their_noise_too(tmp_path):
    source, x = timm.create_model("test_resnet", num_classes=5).eval(), torch.rand(2, 3, 64, 64)
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=x)
    assert wrapped.prune_intermediate_layers([1]) == source.prune_intermediate_layers([1])
    assert wrapped(x).shape == source(x).shape
    assert differ(wrapped(x), wrapped(x))
    with pytest.raises(SurgeryError, match=r"layer\d\.\S+ is gone.*changed after wrapping"):
        perturbify.save(wrapped, tmp_path / "pruned.safetensors")


def resnetv2(num_classes):
    """A network whose classifier is a convolution."""
    return ResNetV2((1, 1, 1, 1), channels=(128, 128, 128, 128), num_classes=num_classes, stem_chs=32).eval()


def test_a_convolutional_classifier_with_noise():
    source, x = resnetv2(5), torch.rand(2, 3, 64, 64)
    wrapped = perturbify.wrap(source, example_input=x)
    assert "head.fc" in {s.owner for s in wrapped.surgery.plan.sites}
    with pytest.raises(SurgeryError, match=r"head\.fc is part of a wrapped network, and its new Conv2d would convolve"):
        wrapped.reset_classifier(3)
    assert not torch.equal(wrapped(x), wrapped(x))
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(x), source(x))
        assert torch.equal(pickle.loads(pickle.dumps(wrapped))(x), source(x))


def test_a_new_convolution_without_noise_is_refused():
    wrapped = perturbify.wrap(resnetv2(0), example_input=torch.rand(2, 3, 64, 64))
    with pytest.raises(SurgeryError, match=r"would convolve without noise"):
        wrapped.stem.extra = nn.Conv2d(3, 3, 3)


def test_merging_blocks_into_new_convolutions_is_refused():
    source, x = timm.create_model("repvgg_a0", num_classes=3), torch.rand(2, 3, 32, 32)
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=x).eval()
    with pytest.raises(SurgeryError, match=r"stem\.reparam_conv is part of a wrapped network.*without noise"):
        reparameterize_model(wrapped)
    merged = reparameterize_model(source)
    assert not torch.equal(*(perturbify.wrap(merged, example_input=x).eval()(x) for _ in range(2)))


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
        return cls

    def get_classifier(self):
        return self.conv

    def again(self, x):
        return self.forward(self.forward(x)[:, :3])

    def __deepcopy__(self, memo):
        twin = Own()
        twin.load_state_dict(self.state_dict(), strict=False)
        return twin.train(self.training)


X = torch.rand(2, 3, 8, 8)


def test_attributes_of_a_class():
    wrapped = perturbify.wrap(Own(), PerturbConfig(grain="channel"), example_input=X)
    assert wrapped.stride == 4
    assert wrapped.device == torch.device("cpu")
    assert wrapped.scale(255) == 1
    assert issubclass(wrapped.small(), Own)
    assert wrapped.get_classifier() is wrapped.conv
    with pytest.raises(AttributeError):
        _ = wrapped.broken
    assert not torch.equal(wrapped.blind, wrapped.blind)
    assert not torch.equal(wrapped.again(X), wrapped.again(X))


def test_a_copy_is_perturbed_despite_custom_copying():
    wrapped = perturbify.wrap(Own(), example_input=X)
    double = copy.deepcopy(wrapped)
    assert type(double) is type(wrapped)
    assert not torch.equal(double(X), double(X))
