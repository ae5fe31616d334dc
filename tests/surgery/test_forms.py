"""The shapes that users' own networks take."""

import dataclasses
import random
from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import perturbify

X = torch.rand(2, 3, 8, 8)
Pair = namedtuple("Pair", "map mean")


@dataclasses.dataclass
class Result:
    map: torch.Tensor
    mean: torch.Tensor


class Net(nn.Module):
    """A convolution, and a forward that each test gives it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)


def wrap(network, example=X):
    wrapped = perturbify.wrap(network, example_input=example)
    args, kwargs = (
        ((), example) if isinstance(example, dict) else (example if isinstance(example, tuple) else (example,), {})
    )
    with perturbify.noise(wrapped, enabled=False), torch.no_grad():
        got, want = wrapped(*args, **kwargs), network(*args, **kwargs)
    if isinstance(want, torch.Tensor):
        assert torch.equal(got, want)
    return wrapped


def test_a_bare_convolution_as_the_root():
    wrapped = wrap(nn.Conv2d(3, 4, 3))
    assert set(wrapped.state_dict()) == {"weight", "bias", "perturb.theta"}
    assert [n for n, _ in perturbify.perturbations(wrapped)] == ["(root)"]
    assert not torch.equal(wrapped(X), wrapped(X))


def test_sequential():
    assert set(wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).state_dict()) == {
        "0.weight",
        "0.bias",
        "0.perturb.theta",
    }


def test_module_list_loops():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.heads = nn.ModuleDict({"a": nn.Conv2d(3, 2, 1)})

        def forward(self, x):
            for i, block in enumerate(self.blocks):
                x = x + block(x) * (i + 1)
            return self.heads["a"](x)

    assert [s.name for s in wrap(Loop()).surgery.plan.sites] == ["blocks.0", "blocks.1", "blocks.2", "heads.a"]


def test_a_module_works_under_any_of_its_names():
    class Encode(Net):
        def forward(self, x):
            return F.pad(self.conv(x), (1, 1, 1, 1))[:, :3] + x

    class Block(nn.Module):
        def __init__(self, encode):
            super().__init__()
            self.encode = encode

        def forward(self, x):
            return self.encode(x) * 2

    class Sharing(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = Encode()
            self.blocks = nn.Sequential(Block(self.encode), Block(self.encode))

        def forward(self, x):
            return self.blocks(x)

    wrapped = wrap(Sharing())
    assert [s.name for s in wrapped.surgery.plan.sites] == ["encode.conv", "encode.conv#1"]
    assert not torch.equal(wrapped(X), wrapped(X))


def test_keyword_only_and_optional_inputs():
    class Keywords(Net):
        def forward(self, x, scale=2.0, mask=None, *, bias, flip=False):
            y = self.conv(x) * scale + bias
            if mask is not None:
                y = y * mask
            return y.flip(-1) if flip else y

    network, bias, mask = Keywords(), torch.rand(2, 1, 1, 1), torch.rand(2, 4, 6, 6)
    plain = wrap(network, {"x": X, "bias": bias})
    masked = wrap(network, {"x": X, "bias": bias, "mask": mask})
    with perturbify.noise(plain, enabled=False), perturbify.noise(masked, enabled=False):
        assert torch.equal(plain(X, bias=bias), network(X, bias=bias))
        assert torch.equal(masked(X, mask=mask, bias=bias), network(X, mask=mask, bias=bias))
        # What was not in the example is an argument all the same.
        assert torch.equal(plain(X, bias=bias, scale=3.0), network(X, bias=bias, scale=3.0))
        assert torch.equal(plain(X, bias=bias, mask=mask, flip=True), network(X, bias=bias, mask=mask, flip=True))
    for call in (lambda: plain(X), lambda: plain(X, x=X, bias=bias)):
        with pytest.raises(TypeError, match=r"forward\(\)"):
            call()


def test_several_positional_inputs():
    class Two(Net):
        def forward(self, a, b):
            return self.conv(a) - self.conv(b)

    assert [s.name for s in wrap(Two(), (X, X + 1)).surgery.plan.sites] == ["conv", "conv#1"]


@pytest.mark.parametrize("make", [tuple, list, dict, OrderedDict, Pair, Result], ids=lambda m: m.__name__)
def test_outputs_keep_their_type(make):
    class Several(Net):
        def forward(self, x):
            y = self.conv(x)
            if make in (tuple, list):
                return make([y, y.mean()])
            if make in (dict, OrderedDict):
                return make([("map", y), ("mean", y.mean())])
            return make(y, y.mean())

    wrapped = wrap(Several())
    with perturbify.noise(wrapped, enabled=False):
        out = wrapped(X)
    assert type(out) is make


@pytest.mark.parametrize("parametrize", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_convolutions(parametrize):
    network = nn.Sequential(parametrize(nn.Conv2d(3, 4, 3)), nn.ReLU(), parametrize(nn.Conv2d(4, 4, 3)))
    wrapped = wrap(network.eval())
    assert [s.name for s in wrapped.surgery.plan.sites] == ["0", "2"]
    assert set(network.state_dict()) < set(wrapped.state_dict())
    wrapped.train()(X).sum().backward()
    assert all(p.grad is not None for p in wrapped.parameters())


class FromBuffers(Net):
    """Computes with a buffer, a plain tensor attribute and parameters, in ways that tempt a tracer to bake them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1))
        self.gain = nn.Parameter(torch.ones(4))
        self.shift = nn.ParameterList([nn.Parameter(torch.zeros(1))])

    def forward(self, x):
        factor = self.scale * 2 + self.gain.view(self.gain.shape[0], 1, 1).exp()
        return self.conv(x) * factor / self.scale.size(0) + self.shift[0]


def test_buffers_and_parameters_stay_live():
    network = FromBuffers()
    wrapped = wrap(network)
    for name in ("scale", "gain", "shift.0", "conv.weight"):
        with torch.no_grad():
            for model in (network, wrapped):
                dict([*model.named_parameters(), *model.named_buffers()])[name].mul_(1.5).add_(0.5)
        with perturbify.noise(wrapped, enabled=False):
            assert torch.equal(wrapped(X), network(X)), name
    wrapped(X).sum().backward()
    assert wrapped.gain.grad is not None


def test_batch_norm_updates_match_the_source():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None)).train()
    wrapped = perturbify.wrap(network, example_input=X)
    with perturbify.noise(wrapped, enabled=False):
        for _ in range(3):
            assert torch.equal(wrapped(X), network(X))
    for name, value in network.named_buffers():
        assert torch.equal(dict(wrapped.named_buffers())[name], value)
    assert wrapped.get_submodule("1").num_batches_tracked == 3


def test_dropout_follows_the_training_flag():
    class Dropping(Net):
        def forward(self, x):
            return F.dropout(self.conv(x), 0.5, training=self.training)

    wrapped = wrap(Dropping().eval())
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped.eval()(X), wrapped(X))
        assert (wrapped.train()(X) == 0).any()
        assert not (wrapped.eval()(X) == 0).any()


def test_a_leaf_may_draw_from_pythons_own_generator():
    class LayerDrop(nn.Module):
        def forward(self, x):
            return x * 0 if self.training and random.random() < 0.5 else x

    class Dropping(Net):
        def __init__(self):
            super().__init__()
            self.drop = LayerDrop()

        def forward(self, x):
            return self.drop(self.conv(x))

    wrapped = perturbify.wrap(Dropping(), example_input=X).train()
    random.seed(0)
    assert {bool((wrapped(X) == 0).all()) for _ in range(30)} == {True, False}


def test_in_place_operations_behind_a_convolution():
    class InPlace(Net):
        def forward(self, x):
            y = self.conv(x)
            y += 1
            return y.relu_()

    wrapped = wrap(InPlace())
    wrapped(X).sum().backward()
    assert wrapped.conv.perturb.theta.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to(dtype).eval()
    wrapped = wrap(network, X.to(dtype))
    assert {p.theta.dtype for _, p in perturbify.perturbations(wrapped)} == {dtype}
    assert wrapped(X.to(dtype)).dtype == dtype


def test_channels_last_and_autocast():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    wrapped = wrap(network, x)
    assert wrapped(x).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wrapped(x).dtype == network(x).dtype == torch.bfloat16
        with perturbify.noise(wrapped, enabled=False):
            assert torch.equal(wrapped(x), network(x))
