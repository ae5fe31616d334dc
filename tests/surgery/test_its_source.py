"""A wrapped network is its source: whatever is done to it, its noise is there, and it does what the source does."""

import copy
import inspect

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

import perturbify
from perturbify import Normalize, PerturbConfig
from perturbify.errors import SurgeryError
from perturbify.surgery.noisy import source_class

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    source = torchvision.models.resnet18(num_classes=3).eval()
    return source, perturbify.wrap(source, example_input=X)


@pytest.fixture
def pair(resnet):
    return copy.deepcopy(resnet[0]), copy.deepcopy(resnet[1])


def alive(f, x=X):
    with torch.no_grad():
        return not torch.equal(f(x), f(x))


def test_class_signature_and_parts(pair):
    source, wrapped = pair
    assert isinstance(wrapped, torchvision.models.ResNet)
    assert type(wrapped).__name__ == "ResNet"
    assert inspect.signature(wrapped.forward) == inspect.signature(source.forward)
    assert inspect.signature(wrapped.conv1.forward) == inspect.signature(source.conv1.forward)
    assert [n for n, _ in wrapped.named_children()] == [n for n, _ in source.named_children()]
    for path, module in source.named_modules():
        ours = wrapped.get_submodule(path)
        assert isinstance(ours, type(module))
        if not isinstance(module, nn.Conv2d) and path:
            assert type(ours) is type(module)
    assert wrapped(x=X).shape == (2, 3)


@pytest.mark.parametrize(
    "part",
    [
        lambda m: nn.Sequential(*list(m.children())[:-1]),
        lambda m: nn.Sequential(m.conv1, m.bn1, m.maxpool, m.layer1),
        lambda m: lambda x: IntermediateLayerGetter(m, {"layer4": "f"})(x)["f"],
        lambda m: lambda x: create_feature_extractor(m, ["layer2"])(x)["layer2"],
        lambda m: m.conv1,
        lambda m: m.conv1.forward,
        lambda m: nn.DataParallel(m),
    ],
)
def test_a_part_by_itself(pair, part):
    source, wrapped = pair
    assert alive(part(wrapped))
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(part(wrapped)(X), part(source)(X))


def test_hooks_fire_in_the_sources_order(pair):
    seen = []
    for network in pair:
        seen.append([])
        for path in ("layer4.1.conv2", "layer4.1", "layer4", "bn1", ""):
            module = network.get_submodule(path)
            module.register_forward_hook(lambda *_, path=path, its=seen[-1]: its.append(path))
            module.register_forward_pre_hook(lambda *_, path=path, its=seen[-1]: its.append(f"before {path}"))
        network(X)
    assert seen[0] == seen[1]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Linear(4, 3)
        self.temperature, self.features = 1.0, False

    def forward(self, x):
        f = self.drop(self.conv(x).relu().mean((2, 3)))
        return f if self.features else self.head(f) / self.temperature


def test_attributes_and_modes_that_change_later():
    source, wrapped = Net().eval(), None
    wrapped = perturbify.wrap(source, example_input=X)
    for network in (source, wrapped):
        network.temperature = 10.0
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X), source(X))
        source.features = wrapped.features = True
        assert torch.equal(wrapped(X), source(X))
        wrapped.drop.train(), source.drop.train()  # Monte Carlo dropout
        torch.manual_seed(1)
        ours = wrapped(X)
        torch.manual_seed(1)
        assert torch.equal(ours, source(X))
        assert not torch.equal(wrapped(X), wrapped(X))
    wrapped.train().drop.eval()
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X), wrapped(X))


def test_replacing_a_convolution_at_a_site():
    wrapped = perturbify.wrap(Net(), example_input=X)
    with pytest.raises(
        SurgeryError, match=r"conv is part of a wrapped network, and its new Conv2d would convolve with"
    ):
        wrapped.conv = nn.Conv2d(3, 4, 3)
    with pytest.raises(SurgeryError, match=r"extra is part of a wrapped network"):
        wrapped.extra = nn.Conv2d(3, 4, 3)
    assert alive(wrapped.eval())
    wrapped.conv = perturbify.wrap(nn.Conv2d(3, 4, 5), example_input=X)
    assert alive(wrapped)
    wrapped.head = nn.Linear(4, 7)
    assert wrapped(X).shape == (2, 7)
    sequence = perturbify.wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), example_input=X)
    with pytest.raises(SurgeryError, match="0 is part of"):
        sequence[0] = nn.Conv2d(3, 4, 3)
    bigger = nn.Module()
    bigger.backbone, bigger.head = sequence, nn.Conv2d(4, 2, 1)  # around a wrapped network there may be anything
    assert isinstance(sequence[0], nn.Conv2d) and len(sequence) == 2


def test_inference_mode():
    with torch.inference_mode(), pytest.raises(SurgeryError, match=r"In torch\.inference_mode\(\).*cannot be trained"):
        perturbify.wrap(Net(), example_input=X)
    with torch.inference_mode():
        made_there = Net()
    with pytest.raises(SurgeryError, match="outside inference_mode"):
        perturbify.wrap(made_there, example_input=X)
    wrapped = perturbify.wrap(Net(), example_input=X).eval()
    with torch.inference_mode():
        assert alive(wrapped)


def test_unwrapping_is_exact(pair):
    source, wrapped = pair
    wrapped.extra_note = "kept"
    bare = perturbify.unwrap(wrapped)
    assert {path: type(m) for path, m in bare.named_modules()} == {path: type(m) for path, m in source.named_modules()}
    for (path, ours), theirs in zip(bare.named_modules(), source.modules(), strict=True):
        assert set(vars(ours)) - {"extra_note"} == set(vars(theirs)), path
    assert bare.extra_note == "kept"
    assert torch.equal(bare(X), source(X))
    assert source_class(wrapped) is type(source)


def test_each_class_gets_one_subclass(resnet):
    _, wrapped = resnet
    assert type(wrapped.conv1) is type(wrapped.layer1[0].conv2)
    other = perturbify.wrap(timm.create_model("test_resnet"), PerturbConfig(grain="layer"))
    assert type(other.layer1[0].conv1) is type(wrapped.conv1)


def test_in_place_changes_the_network_itself():
    source = Net()
    wrapped = perturbify.wrap(source, example_input=X, inplace=True)
    assert wrapped is source
    assert alive(source.eval())

    class Stepping(Net):
        steps = 0

        def forward(self, x):
            type(self).steps += 1
            return super().forward(x) * type(self).steps

    bad = Stepping()
    before = {path: type(m) for path, m in bad.named_modules()}
    with pytest.raises(SurgeryError, match="differs from the source"):
        perturbify.wrap(bad, example_input=X, inplace=True)
    assert {path: type(m) for path, m in bad.named_modules()} == before


class Loop(nn.Module):
    """It runs its children, whichever they are."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x


@pytest.mark.parametrize("make", [Loop, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))])
def test_built_in_normalisation_is_hidden_from_children(make):
    source, normalize = make().eval(), Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    wrapped = perturbify.wrap(source, example_input=X, normalize=normalize)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X), source(normalize(X)))
    assert [type(m).__name__ for m in wrapped.children()] == ["Conv2d", "ReLU", "Conv2d"]
    assert wrapped.double().normalize.mean.dtype == torch.float64
    assert alive(wrapped, X.double())


def test_verification_can_be_left_out():
    wrapped = perturbify.wrap(Net(), example_input=X, verify=False)
    assert wrapped.surgery.plan == perturbify.wrap(Net(), example_input=X).surgery.plan
    assert alive(wrapped.eval())


class Named(nn.ModuleDict):
    """A dictionary that runs its entries."""

    def forward(self, x):
        for name in self:
            x = self[name](x)
        return x


def test_a_module_dict_gets_no_extra_entry():
    source, normalize = Named({"a": nn.Conv2d(3, 4, 3), "b": nn.ReLU()}), Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    wrapped = perturbify.wrap(source, example_input=X, normalize=normalize)
    assert (list(wrapped), len(wrapped)) == (["a", "b"], 2)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X), source(normalize(X)))


def test_a_part_that_is_compiled_later(pair):
    _, wrapped = pair
    wrapped.layer1 = torch.compile(wrapped.layer1, backend="eager")
    assert alive(wrapped)
    torch.compiler.reset()
