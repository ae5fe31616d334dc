"""Noise on a convolution's input, behind norms and behind additions: where it goes, and nowhere else."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from networks.architectures import Conditional
from networks.plain import conv
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import NoConvolutions
from perturbify.surgery.wrap import plan, wrap
from perturbify.zoo.cifar_resnet import cifar_resnet, cifar_resnet18

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LARGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MAPS = ("output", "input", "norm", "addition")


class Residual(nn.Module):
    """A shortcut that shares its tensor with a convolution, and one that adds in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn, self.a, self.b = conv(), nn.BatchNorm2d(4), conv(4, 4), conv(4, 4)

    def forward(self, x):
        x = self.bn(self.stem(x))
        x = self.a(x) + x
        y = self.b(x)
        y += x
        return y.relu()


class Plain(nn.Module):
    """Registered in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.last, self.norm, self.first = conv(4, 2), nn.BatchNorm2d(4), conv()

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


class Repeating(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(3, 3)

    def forward(self, x):
        return self.conv(self.conv(self.conv(x)))


class Branching(Plain):
    def forward(self, x):
        y = self.norm(self.first(x))
        return self.last(y if y.mean() > 9 else -y)


class Auxiliary(Plain):
    def forward(self, x):
        y = self.norm(self.first(x))
        return (self.last(y), y) if self.training else y


def googlenet():
    network = torchvision.models.googlenet(weights=None, num_classes=3, init_weights=False)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


NETWORKS = {
    "residual": (Residual, X),
    "repeating": (Repeating, X),
    "branching": (Branching, X),
    "cifar_resnet20": (lambda: cifar_resnet(20), LARGE),
    "mnasnet": (lambda: torchvision.models.mnasnet0_5(weights=None, dropout=0.0), LARGE),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(weights=None), LARGE),
    **{
        name: (lambda name=name: timm.create_model(name, num_classes=5), LARGE)
        for name in ("test_efficientnet", "test_convnext", "test_byobnet", "test_nfnet", "test_resnet")
    },
}


def made(kind, example=X, seed=0, **settings):
    torch.manual_seed(seed)
    source = kind()
    return source, wrap(source, PerturbConfig(**settings), example_input=example)


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


def assert_same(a, b):
    left, right = leaves(a), leaves(b)
    assert len(left) == len(right) > 0
    assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def record(wrapped, x):
    """What a forward gives, and what each noise module took and gave, by the module it stands at, in order."""
    seen, hooks = {}, []
    for site in wrapped.surgery.plan.sites:
        taken = seen.setdefault(site.owner, [])
        hook = lambda m, i, o, taken=taken: taken.append((i[0].clone(), o.clone()))  # noqa: E731
        hooks.append(wrapped.get_submodule(site.path).register_forward_hook(hook))
    result = wrapped(x)
    for hook in hooks:
        hook.remove()
    return result, {owner: taken for owner, taken in seen.items() if taken}


def replay(source, x, seen, *, before):
    """The source's own forward with what was recorded as its modules' inputs or outputs; clean values must agree."""
    hooks = []
    for owner, records in seen.items():
        left = list(records)

        def put(m, inputs, output=None, left=left):
            clean, noisy = left.pop(0)
            assert torch.equal(clean, inputs[0] if output is None else output)
            return noisy

        module = source.get_submodule(owner)
        hooks.append((module.register_forward_pre_hook if before else module.register_forward_hook)(put))
    result = source(x)
    for hook in hooks:
        hook.remove()
    return result


@pytest.mark.parametrize(
    ("name", "site"),
    [(name, site) for name in ("residual", "branching", "cifar_resnet20", "test_efficientnet") for site in MAPS[:3]]
    + [("repeating", "input"), ("mnasnet", "input")],
)
def test_the_noise_is_only_at_that_module(name, site):
    kind, x = NETWORKS[name]
    source, wrapped = made(kind, x, site=site, grain="channel")
    assert {s.way for s in wrapped.surgery.plan.sites} == {"input" if site == "input" else "output"}
    for training in (False, True):
        source.train(training), wrapped.train(training)
        with torch.no_grad():
            plain = copy.deepcopy(source)
            got, seen = record(copy.deepcopy(wrapped), x)
            assert sum(map(len, seen.values())) == len(wrapped.surgery.plan.sites)
            assert_same(got, replay(plain, x, seen, before=site == "input"))
            assert all(not torch.equal(*pair) for pairs in seen.values() for pair in pairs)


@pytest.mark.parametrize(
    ("name", "site"),
    [(name, site) for name in ("residual", "test_byobnet") for site in MAPS]
    + [("cifar_resnet20", "addition"), ("test_nfnet", "input"), ("test_convnext", "addition"), ("shufflenet", "norm")],
)
def test_noise_off_matches_the_source(name, site):
    kind, x = NETWORKS[name]
    source, wrapped = made(kind, x, site=site, grain="channel")
    before = {k: v.clone() for k, v in source.state_dict().items()}
    for training in (False, True):
        plain, twin = copy.deepcopy(source).train(training), copy.deepcopy(wrapped).train(training)
        with torch.no_grad():
            with perturbify.noise(twin, enabled=False):
                assert_same(twin(x), plain(x))
            assert not torch.equal(leaves(twin(x))[0], leaves(twin(x))[0])
    assert all(torch.equal(v, before[k]) for k, v in source.state_dict().items())
    assert {k for k in wrapped.state_dict() if not k.endswith(".theta")} == set(before)
    bare = perturbify.unwrap(wrapped)
    assert list(bare.state_dict()) == list(before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in bare.modules())
    assert_same(bare.eval()(x), source.eval()(x))


@pytest.mark.parametrize(("depth", "sites"), [(20, 10), (32, 16), (44, 22), (56, 28)])
def test_additions_of_the_papers_networks(depth, sites):
    found = plan(cifar_resnet(depth), PerturbConfig(site="addition"), example_input=LARGE)
    assert len(found.sites) == sites
    assert [s.kind for s in found.sites] == ["BatchNorm2d", *["addition"] * (sites - 1)]
    assert found.skipped == ()


def test_additions_of_the_wide_network():
    found = plan(cifar_resnet18(), PerturbConfig(site="addition"), example_input=LARGE)
    assert len(found.sites) == 9
    assert [s.map_shape for s in found.sites[-2:]] == [(512, 4, 4)] * 2


def test_noise_behind_an_addition_reaches_everything_after():
    source, wrapped = made(Residual, site="addition")
    source.eval(), wrapped.eval()
    names = [s.name for s in wrapped.surgery.plan.sites]
    assert names == ["bn", "(root)", "(root)#1"]
    with torch.no_grad():
        got, seen = record(wrapped, X)
        (stem, noisy_stem), ((one, noisy_one), (two, noisy_two)) = seen["bn"][0], seen[""]
        assert torch.equal(stem, source.bn(source.stem(X)))
        assert torch.equal(one, source.a(noisy_stem) + noisy_stem)
        assert torch.equal(two, source.b(noisy_one) + noisy_one)
        assert torch.equal(got, noisy_two.relu())


def test_additions_of_other_things_are_not_sites():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.shift = conv(), nn.BatchNorm2d(4), nn.Parameter(torch.rand(4, 8, 8))

        def forward(self, x):
            x = self.norm(self.stem(x))
            x = x + 1  # a number
            x = x + self.shift  # a bias
            x = x + x.mean((2, 3), keepdim=True)  # of another shape
            x = torch.add(x, x.relu())  # these two are
            return x.add(x.sigmoid())

    found = plan(Sums(), PerturbConfig(site="addition"), example_input=X)
    assert [s.name for s in found.sites] == ["norm", "(root)", "(root)#1"]


def test_input_noise_reaches_only_its_own_convolution():
    source, wrapped = made(Residual, site="input")
    source.eval(), wrapped.eval()
    with torch.no_grad():
        got, seen = record(wrapped, X)
        stem = source.bn(source.stem(seen["stem"][0][1]))
        assert torch.equal(seen["a"][0][0], stem)
        one = source.a(seen["a"][0][1]) + stem  # the shortcut has no noise
        assert torch.equal(seen["b"][0][0], one)
        assert torch.equal(got, (source.b(seen["b"][0][1]) + one).relu())
    assert [s.map_shape for s in wrapped.surgery.plan.sites] == [(3, 8, 8), (4, 8, 8), (4, 8, 8)]


def test_two_convolutions_sharing_an_input_draw_independently():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            return self.a(x) * F.conv2d(input=x, weight=self.b.weight, padding=1)

    _, wrapped = made(Forked, site="input")
    _, seen = record(wrapped, X)
    (clean, one), (_, two) = seen["a"][0], seen[""][0]
    assert torch.equal(clean, X)
    assert not torch.equal(one, two)


def test_a_keyword_input():
    class ByName(Plain):
        def forward(self, x):
            return self.last(input=self.norm(self.first(x)))

    source, wrapped = made(ByName, site="input")
    assert [s.name for s in wrapped.surgery.plan.sites] == ["first", "last"]
    source.eval(), wrapped.eval()
    got, seen = record(wrapped, X)
    (_, first), (_, last) = seen["first"][0], seen["last"][0]
    assert torch.equal(seen["last"][0][0], source.norm(source.first(first)))
    assert torch.equal(got, source.last(last))
    assert not torch.equal(wrapped.first(input=X), wrapped.first(input=X))


def test_images_in_the_channels_of_an_input():
    source, wrapped = made(Conditional, site="input", grain="element")
    site = wrapped.surgery.plan.sites[-1]
    assert (site.owner, site.theta_shape, site.batch_in_channels) == ("cond", (4, 8, 8), False)
    taken = record(wrapped, torch.cat([X, X]))[1]["cond"][0]
    noise = (taken[1] - taken[0]).detach()
    assert noise.std() == pytest.approx(0.25, rel=0.1)
    assert not torch.equal(noise[0], noise[1])
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X), source(X))


def test_the_norm_fed_by_a_convolution():
    class Norms(nn.Module):
        def __init__(self, between=None):
            super().__init__()
            self.before, self.conv, self.between, self.after = nn.BatchNorm2d(3), conv(), between, nn.BatchNorm2d(4)
            self.second, self.group = conv(4, 4), nn.GroupNorm(2, 4)

        def forward(self, x):
            x = self.conv(self.before(x))
            x = self.after(x if self.between is None else self.between(x))
            return self.group(self.second(x))

    assert [s.owner for s in plan(Norms(), PerturbConfig(site="norm"), example_input=X).sites] == ["after", "group"]
    for between in (nn.ReLU(), nn.ReLU(inplace=True), nn.MaxPool2d(1)):
        found = plan(Norms(between), PerturbConfig(site="norm"), example_input=X)
        assert [s.owner for s in found.sites] == ["group"]
        assert [(s.name, s.reason) for s in found.skipped] == [("conv", "no normalisation takes its output")]
    source, wrapped = made(lambda: Norms(nn.Identity()), site="norm")
    assert [s.owner for s in wrapped.surgery.plan.sites] == ["after", "group"]
    got, seen = record(wrapped.eval(), X)
    assert torch.equal(got, replay(source.eval(), X, seen, before=False))


@pytest.mark.parametrize("theta_per", ["call", "module"])
@pytest.mark.parametrize("site", ["output", "input"])
def test_first_means_the_first_that_runs(site, theta_per):
    settings = {"site": site, "extent": "first", "theta_per": theta_per}
    _, wrapped = made(Plain, **settings)
    assert [s.owner for s in wrapped.surgery.plan.sites] == ["first"]
    assert [(s.name, s.reason) for s in wrapped.surgery.plan.skipped] == [("last", "not the first")]
    source, wrapped = made(Repeating, **settings)
    assert [s.name for s in wrapped.surgery.plan.sites] == ["conv"]
    assert [s.name for s in wrapped.surgery.plan.skipped] == ["conv#1", "conv#2"]
    with torch.no_grad():
        for _ in range(2):
            got, seen = record(wrapped, X)
            assert len(seen["conv"]) == 1
            clean, noisy = seen["conv"][0]
            rest = source.conv(noisy) if site == "input" else noisy
            assert torch.equal(clean, X if site == "input" else source.conv(X))
            assert torch.equal(got, source.conv(source.conv(rest)))


def test_first_counts_only_the_included_sites():
    def names(**settings):
        return [s.owner for s in plan(Residual(), PerturbConfig(extent="first", **settings), example_input=X).sites]

    assert names() == ["stem"]
    assert names(exclude=("stem",)) == ["a"]
    assert names(include=("b",)) == ["b"]
    assert names(site="norm") == ["bn"]
    _, wrapped = made(Residual, extent="first", exclude=("stem",), theta_first=0.5)
    assert [round(p.theta.mean().item(), 6) for _, p in perturbify.perturbations(wrapped)] == [0.5]


@pytest.mark.parametrize("site", ["output", "input"])
def test_one_theta_for_all_calls(site):
    _, wrapped = made(Repeating, site=site, theta_per="module")
    (found,) = wrapped.surgery.plan.sites
    assert (found.name, found.calls) == ("conv", 3)
    assert len(record(wrapped, X)[1]["conv"]) == 3


@pytest.mark.parametrize(
    ("site", "every"),
    [
        ("output", ["stem", "a", "b"]),
        ("input", ["stem", "a", "b"]),
        ("norm", ["bn"]),
        ("addition", ["bn", "(root)", "(root)#1"]),
    ],
)
def test_include_and_exclude(site, every):
    def names(**globs):
        return [s.name for s in plan(Residual(), PerturbConfig(site=site, **globs), example_input=X).sites]

    assert names() == every
    assert names(include=("b*", "")) == [n for n in every if n[0] in "b("]
    assert names(exclude=("b*",)) == [n for n in every if n[0] != "b"]
    with pytest.raises(NoConvolutions, match=r"Residual has nothing to put noise .* All 3 of its sites"):
        made(Residual, site=site, exclude=("*",))


def test_error_messages():
    place = {"output": "behind", "input": "before", "norm": "on", "addition": "on"}
    for site in ("output", "input", "norm"):
        with pytest.raises(NoConvolutions, match=f"Sequential has nothing to put noise {place[site]}"):
            made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), site=site)
    with pytest.raises(NoConvolutions, match=r"Repeating has nothing to put noise on\. All 3 of its sites are skipped"):
        made(Repeating, site="norm")
    with pytest.raises(
        ValueError, match="site must be one of output, activation, input, norm, addition, weight, parameter, not 'in'"
    ):
        PerturbConfig(site="in")


@pytest.mark.parametrize("site", ["output", "input", "norm"])
def test_calls_in_train_mode_only(site):
    source, wrapped = made(Auxiliary, site=site)
    modes = {s.owner: s.modes for s in wrapped.surgery.plan.sites}
    assert modes == ({"norm": "both"} if site == "norm" else {"first": "both", "last": "train"})
    source.train(), wrapped.train()
    got, seen = record(copy.deepcopy(wrapped), X)
    assert_same(got, replay(source, X, seen, before=site == "input"))


def test_heads_in_train_mode_only():
    source, wrapped = made(googlenet, LARGE, site="input", grain="layer")
    auxiliary = {s.owner: s.modes for s in wrapped.surgery.plan.sites if s.owner.startswith("aux")}
    assert auxiliary == {"aux1.conv.conv": "train", "aux2.conv.conv": "train"}
    with torch.no_grad():
        got, seen = record(wrapped.train(), LARGE)
        assert_same(got, replay(source.train(), LARGE, seen, before=True))


@pytest.mark.parametrize("site", MAPS)
def test_gradients_and_copies(site):
    source, wrapped = made(Residual, site=site, grain="channel")
    for network in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        found = []
        for one in (wrapped, network):
            one.zero_grad()
            torch.manual_seed(1)
            one(X).square().sum().backward()
            found.append([p.grad for p in one.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        assert all(g.count_nonzero() for g in found[0])
    for change in ({"dtype": torch.bfloat16}, {"memory_format": torch.channels_last}):
        x, plain, noisy = (v.to(**change) for v in (X, copy.deepcopy(source).eval(), copy.deepcopy(wrapped).eval()))
        noisy.load_state_dict(plain.state_dict(), strict=False)
        assert noisy(x).dtype == x.dtype
        with perturbify.noise(noisy, enabled=False):
            assert torch.equal(noisy(x), plain(x))
    zeros = {n: torch.zeros_like(p) for n, p in wrapped.named_parameters() if n.endswith("theta")}
    wrapped.eval()
    assert torch.equal(*(torch.func.functional_call(wrapped, zeros, (X,)) for _ in range(2)))


@pytest.mark.parametrize("site", ["input", "addition", "norm"])
def test_compiled_and_exported(site):
    source, wrapped = made(Residual, site=site, grain="channel")
    source.eval(), wrapped.eval()
    torch._dynamo.reset()
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(X), compiled(X))
    with perturbify.noise(wrapped, enabled=False):
        torch.testing.assert_close(compiled(X), source(X))
    exported = torch.export.export(wrapped, (X,)).module()
    assert not torch.equal(exported(X), exported(X))
