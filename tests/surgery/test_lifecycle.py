"""What happens to a wrapped network later: copies, files, dtypes, compilation, and the way back."""

import copy
import io
import pickle

import pytest
import timm
import torch
from torch import nn

import perturbify
from perturbify import PerturbConfig

X = torch.rand(2, 3, 32, 32)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=5, drop_rate=0.1)


@pytest.fixture
def wrapped(source):
    return perturbify.wrap(source, example_input=X)


def seeded(model, x=X):
    torch.manual_seed(9)
    with torch.no_grad():
        return model(x)


def test_unwrap_keeps_class_keys_and_trained_weights(source, wrapped):
    wrapped.train()
    wrapped(X).square().sum().backward()
    torch.optim.SGD(wrapped.parameters(), lr=0.01).step()
    wrapped.eval()
    sites = len(list(perturbify.perturbations(wrapped)))
    bare = perturbify.unwrap(wrapped)
    assert type(bare) is type(source)
    assert list(bare.state_dict()) == list(source.state_dict())
    for name, value in bare.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[name])
    assert not torch.equal(bare.conv1[0].weight, source.conv1[0].weight)
    assert bare.training is False
    assert set(bare.__dict__) == set(source.__dict__)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(bare(X), wrapped(X))
    assert bare.forward_features(X).shape[0] == 2
    assert len(list(perturbify.perturbations(wrapped))) == sites == 15
    perturbify.wrap(bare, example_input=X)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("training", [False, True])
def test_copies_draw_and_compute_the_same(wrapped, twin, training):
    wrapped.train(training)
    double = twin(wrapped)
    assert torch.equal(seeded(double), seeded(wrapped))
    assert double.surgery.plan == wrapped.surgery.plan
    with torch.no_grad():
        next(double.parameters()).zero_()
    assert not torch.equal(next(double.parameters()), next(wrapped.parameters()))


@pytest.mark.parametrize("name", ["test_vit", "test_byobnet", "test_nfnet", "test_convnext", "test_efficientnet"])
def test_other_families_pickle(name):
    network = timm.create_model(name)
    wrapped = perturbify.wrap(network, PerturbConfig(grain="layer")).eval()
    x = torch.rand(1, *network.pretrained_cfg["input_size"])
    assert torch.equal(seeded(pickle.loads(pickle.dumps(wrapped)), x), seeded(wrapped, x))


def test_state_dicts_travel_through_a_file(source, wrapped):
    file = io.BytesIO()
    torch.save(wrapped.state_dict(), file)
    file.seek(0)
    other = perturbify.wrap(timm.create_model("test_resnet", num_classes=5), example_input=X)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(seeded(other.eval()), seeded(wrapped.eval()))
    missing = other.load_state_dict(source.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert all(k.endswith(".theta") for k in missing.missing_keys)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_another_dtype(source, wrapped, dtype):
    wrapped.to(dtype).eval()
    plain = copy.deepcopy(source).to(dtype).eval()
    assert wrapped(X.to(dtype)).dtype == dtype
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X.to(dtype)), plain(X.to(dtype)))


def test_functional_call(wrapped):
    wrapped.eval()
    state = {k: torch.zeros_like(v) for k, v in wrapped.named_parameters()}
    assert (torch.func.functional_call(wrapped, state, (X,)) == 0).all()


def test_compile_without_graph_breaks():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    wrapped = perturbify.wrap(network, example_input=X)
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(X), compiled(X))
    loss = compiled(X).sum()
    loss.backward()
    assert all(p.theta.grad is not None for _, p in perturbify.perturbations(wrapped))
    with perturbify.noise(wrapped, enabled=False):
        torch.testing.assert_close(compiled(X), network(X))


def test_wrapping_on_meta_plans_the_same_without_memory(source):
    with torch.device("meta"):
        network = timm.create_model("test_resnet", num_classes=5)
        wrapped = perturbify.wrap(network, example_input=torch.empty(2, 3, 32, 32))
    assert wrapped.surgery.plan == perturbify.plan(source, example_input=X)
    assert all(p.is_meta for p in wrapped.parameters())


def test_the_repr_adds_only_the_noise(source, wrapped):
    lines = [line for line in repr(wrapped).splitlines() if "(perturb)" in line]
    assert len(lines) == 15
    assert repr(wrapped).splitlines()[0] == repr(source).splitlines()[0]


def test_gradients_with_noise_off_match_the_source(source, wrapped):
    network = copy.deepcopy(source).train()
    x, ours = (X.clone().requires_grad_() for _ in range(2))
    torch.manual_seed(4)
    network(x).square().sum().backward()
    torch.manual_seed(4)
    with perturbify.noise(wrapped.train(), enabled=False):
        wrapped(ours).square().sum().backward()
    assert torch.equal(x.grad, ours.grad)
    for name, parameter in network.named_parameters():
        assert torch.equal(wrapped.get_parameter(name).grad, parameter.grad), name
