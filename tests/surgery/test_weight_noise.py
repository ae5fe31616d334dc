"""Noise on weights: one draw a forward that every use sees, and nothing of it left behind."""

import copy
import io
import pickle
import warnings

import pytest
import timm
import torch
import torchvision
from networks.architectures import Conditional
from networks.weights import (
    Attending,
    Gained,
    Listed,
    Recomputing,
    RecomputingReentrantly,
    Recurrent,
    Small,
    Standardised,
    Tied,
)
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import perturbify
from perturbify import PerturbConfig
from perturbify.copying import copy_network
from perturbify.errors import NoConvolutions, SurgeryError
from perturbify.perturbation import Perturbation
from perturbify.surgery.wrap import wrap
from perturbify.zoo.cifar_resnet import cifar_resnet

WEIGHT = PerturbConfig(site="weight", scale="relative", grain="layer", theta_min=None)
PARAMETER = PerturbConfig(site="parameter", scale="posterior", theta_init=-2.3, theta_min=None)
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def normed(norm):
    network = Small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises against the old ones
        norm(network.a), norm(network.fc)
    return network


LARGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "cifar_resnet20": (lambda: cifar_resnet(20), LARGE),
    **{
        name: (lambda name=name: timm.create_model(name, num_classes=5), LARGE)
        for name in ("test_efficientnet", "test_convnext", "test_byobnet", "test_nfnet", "test_resnet")
    },
    "vit": (lambda: timm.create_model("test_vit", num_classes=5, img_size=32), LARGE),
    "standardised": (Standardised, X),
    "mnasnet": (lambda: torchvision.models.mnasnet0_5(weights=None, dropout=0.0), LARGE),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(weights=None), LARGE),
    "tied": (Tied, X),
    "attending": (Attending, X),
    "recurrent": (Recurrent, X),
    "container": (Gained, X),
    "listed": (Listed, X),
    "conditional": (Conditional, X),
    "weight_norm": (lambda: normed(parametrizations.weight_norm), X),
    "weight_norm_by_hook": (lambda: normed(nn.utils.weight_norm), X),
    "spectral_norm": (lambda: normed(parametrizations.spectral_norm), X),
    "spectral_norm_by_hook": (lambda: normed(nn.utils.spectral_norm), X),
}


def made(kind, config, example=X, seed=0):
    torch.manual_seed(seed)
    source = kind()
    return source, wrap(source, config, example_input=example)


def record(wrapped, run):
    """What a call gives, and each weight as it was drawn, once, by the names of all who hold it."""
    drawn, hooks = {}, []
    for site in wrapped.surgery.plan.sites:

        def keep(_module, _inputs, output, site=site):
            assert site.holders[0] not in drawn
            drawn.update(dict.fromkeys(site.holders, output.detach()))

        hooks.append(wrapped.get_submodule(site.path).register_forward_hook(keep))
    result = run()
    for hook in hooks:
        hook.remove()
    return result, {f"{owner}.{name}".lstrip("."): value for (owner, name), value in drawn.items()}


def assert_same(a, b):
    left, right = (torch.utils._pytree.tree_leaves(v) for v in (a, b))
    assert len(left) == len(right) > 0
    assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("name", "config"),
    [(name, WEIGHT) for name in NETWORKS]
    + [
        (name, PARAMETER) for name in NETWORKS if name not in ("mnasnet", "shufflenet", "test_byobnet", "test_convnext")
    ],
    ids=lambda v: v if isinstance(v, str) else v.site,
)
def test_the_network_computes_with_the_drawn_weights(name, config):
    kind, x = NETWORKS[name]
    source, wrapped = made(kind, config, x)
    # A layer of normalised weights forgets what it computed them from when it is switched to another mode.
    before = {k: v.clone() for k, v in source.state_dict().items()}
    children = [path for path, _ in wrapped.named_modules()]
    for training in (False, True):
        source.train(training), wrapped.train(training)
        plain, twin = copy_network(source), copy_network(wrapped)
        with torch.no_grad():
            with perturbify.noise(twin, enabled=False):
                assert_same(twin(x), plain(x))
            plain, twin = copy_network(source), copy_network(wrapped)
            got, drawn = record(twin, lambda twin=twin: twin(x))
            assert len(drawn) >= len(wrapped.surgery.plan.sites)
            assert_same(got, torch.func.functional_call(plain, drawn, (x,)))
            buffers = dict(twin.named_buffers())
            assert all(torch.equal(buffers[n], b) for n, b in plain.named_buffers())
            assert not torch.equal(*(torch.utils._pytree.tree_leaves(twin(x))[0] for _ in range(2)))
    assert [path for path, _ in wrapped.named_modules()] == children
    assert all(torch.equal(value, before[k]) for k, value in source.state_dict().items())
    assert set(before) == {k for k in wrapped.state_dict() if not k.endswith(".theta")}
    bare = perturbify.unwrap(wrapped)
    assert type(bare) is type(source)
    assert list(bare.state_dict()) == list(before)
    assert_same(bare.eval()(x), source.eval()(x))
    for module, twin in zip(bare.modules(), source.modules(), strict=True):
        assert len(module._forward_pre_hooks) == len(twin._forward_pre_hooks)
        assert set(vars(module)) == set(vars(twin))


def test_a_tied_weight_has_one_theta_and_draw():
    _, wrapped = made(Tied, WEIGHT)
    sites = {s.name: s.holders for s in wrapped.surgery.plan.sites}
    assert sites == {
        "a.weight": (("a", "weight"), ("again", "weight")),
        "b.weight": (("b", "weight"), ("c", "weight")),
    }
    seen = []
    for module in (wrapped.b, wrapped.c):
        module.register_forward_hook(lambda m, *_: seen.append(m.weight))
    wrapped(X)
    wrapped(X)
    assert seen[0] is seen[1] is not wrapped.b.weight
    assert not torch.equal(seen[1], seen[2])


def test_the_plan_explains_which_weights_are_skipped():
    plan = wrap(Recurrent(), PARAMETER, example_input=X).surgery.plan
    assert {s.reason for s in plan.skipped} == {"its weights are read where noise cannot reach"}
    assert {s.name for s in plan.skipped} == {f"lstm.{n}" for n, _ in nn.LSTM(4, 4).named_parameters()}
    assert {"cell.weight_ih", "cell.bias_hh", "fc.bias"} <= {s.name for s in plan.sites}
    assert [s.name for s in wrap(Recurrent(), WEIGHT, example_input=X).surgery.plan.sites] == [
        "stem.weight",
        "fc.weight",
    ]

    for norm, skipped in {
        parametrizations.weight_norm: {"a.weight", "fc.weight"},
        nn.utils.weight_norm: {"a.weight_g", "a.weight_v", "fc.weight_g", "fc.weight_v"},
        nn.utils.spectral_norm: {"a.weight_orig", "fc.weight_orig"},
    }.items():
        plan = wrap(normed(norm), WEIGHT, example_input=X).surgery.plan
        assert [s.name for s in plan.sites] == ["b.weight"]
        assert {s.name for s in plan.skipped} == skipped
        assert {s.reason for s in plan.skipped} == {"the weight is computed before each use"}

    heads = [s.name for s in wrap(Attending(), WEIGHT, example_input=X).surgery.plan.sites if "attend" in s.name]
    assert heads == ["attend.in_proj_weight", "attend.out_proj.weight"]


def test_include_exclude_and_the_first():
    def names(kind=Small, config=WEIGHT, **changes):
        sites = perturbify.plan(
            kind(), PerturbConfig(**{**vars(config), **changes}), method="pni", example_input=X
        ).sites
        return [s.name for s in sites]

    assert names() == ["a.weight", "b.weight", "fc.weight"]
    assert names(include=("?",)) == ["a.weight", "b.weight"]
    assert names(exclude=("?",)) == ["fc.weight"]
    assert names(include=("b", "fc"), exclude=("f*",)) == ["b.weight"]
    with pytest.raises(NoConvolutions, match=r"Small has nothing to put noise on\. All 3 of its sites"):
        wrap(Small(), PerturbConfig(**{**vars(WEIGHT), "exclude": ("*",)}), example_input=X)
    with pytest.raises(NoConvolutions, match="ask for sites of the kind 'weight', and this network has none"):
        wrap(nn.Sequential(nn.BatchNorm2d(3)), WEIGHT, example_input=X)
    first = wrap(Small(), PerturbConfig(**{**vars(WEIGHT), "extent": "first", "exclude": ("a",)}), example_input=X)
    assert [s.name for s in first.surgery.plan.sites] == ["b.weight"]
    assert {s.name: s.reason for s in first.surgery.plan.skipped} == {
        "a.weight": "in exclude",
        "fc.weight": "not the first",
    }
    assert wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), WEIGHT, example_input=X)(X).shape == (2, 5)


@pytest.mark.parametrize("grain", ["element", "channel", "layer"])
def test_shapes_of_theta_including_scalars(grain):
    config = PerturbConfig(site="parameter", grain=grain)
    wrapped = wrap(Gained(), config, example_input=X)
    shapes = {s.name: s.theta_shape for s in wrapped.surgery.plan.sites}
    assert shapes["gain"] == ()
    assert shapes["0.weight"] == {"element": (4, 3, 3, 3), "channel": (4, 1, 1, 1), "layer": (1, 1, 1, 1)}[grain]
    assert wrapped(X).shape == (2, 4, 8, 8)


def test_weights_with_numeric_names():
    wrapped = wrap(Listed(), PARAMETER, example_input=X)
    names = [s.name for s in wrapped.surgery.plan.sites]
    assert {"scales.0", "scales.1", "shifts.up", "inner.0.gain"} <= set(names)
    by_name = dict(perturbify.perturbations(wrapped))
    assert set(by_name) == set(names)
    for site in wrapped.surgery.plan.sites:
        assert wrapped.get_submodule(site.path) is by_name[site.name]


@pytest.mark.parametrize("where", ["a", "norm", "fc"])
def test_an_error_inside_leaves_no_drawn_weight(where):
    _, wrapped = made(Small, PARAMETER)
    before = {path: set(vars(m)) for path, m in wrapped.named_modules()}

    def fail(*_):
        raise KeyError(where)

    hook = wrapped.get_submodule(where).register_forward_pre_hook(fail)
    with pytest.raises(KeyError):
        wrapped(X)
    hook.remove()
    assert {path: set(vars(m)) for path, m in wrapped.named_modules()} == before
    assert wrapped.a.weight is wrapped.a._parameters["weight"]
    with torch.autograd.graph.save_on_cpu():  # saving tensors by hooks is allowed again
        wrapped(X).sum().backward()


def test_a_failed_draw_leaves_nothing_behind_either():
    _, wrapped = made(Small, WEIGHT)
    del wrapped.fc.perturb_weight.theta
    children = [path for path, _ in wrapped.named_modules()]
    with pytest.raises(AttributeError, match="theta"):
        wrapped(X)
    assert [path for path, _ in wrapped.named_modules()] == children
    assert wrapped.a.weight is wrapped.a._parameters["weight"]


def test_a_nested_forward_shares_its_draw():
    _, wrapped = made(Small, WEIGHT)
    inner, weights = [], []

    def again(*_):
        if not inner:
            inner.append(None)
            inner.append(wrapped(X))

    wrapped.a.register_forward_hook(again)
    wrapped.fc.register_forward_hook(lambda m, *_: weights.append(m.weight))
    _, drawn = record(wrapped, lambda: wrapped(X))
    assert [w is weights[0] for w in weights] == [True, True]
    assert torch.equal(weights[0], drawn["fc.weight"])
    assert wrapped.fc.weight is wrapped.fc._parameters["weight"]


def test_the_gradient_treats_std_as_a_constant():
    torch.manual_seed(0)
    network = nn.Linear(6, 3, bias=False).double()
    x, c = torch.randn(4, 6).double(), torch.randn(4, 3).double()
    wrapped = wrap(network, WEIGHT, example_input=x)
    out, drawn = record(wrapped, lambda: wrapped(x))
    (out.square() * c).sum().backward()
    w, alpha = wrapped.weight, wrapped.perturb_weight.theta
    noisy = drawn["weight"].requires_grad_()
    (by_noisy,) = torch.autograd.grad(((x @ noisy.T).square() * c).sum(), noisy)
    torch.testing.assert_close(w.grad, by_noisy)
    eta = (noisy.detach() - w.detach()) / alpha.detach()  # std(w) ε
    torch.testing.assert_close(alpha.grad, (by_noisy * eta).sum().view(1, 1))
    assert not eta.allclose(eta / w.std())


def test_the_posteriors_gradient_against_finite_differences():
    torch.manual_seed(0)
    wrapped = wrap(Small().double().eval(), PARAMETER, example_input=X.double())

    def loss():
        torch.manual_seed(5)
        return wrapped(X.double()).square().sum()

    loss().backward()
    for parameter in (
        wrapped.a.weight,
        wrapped.norm.bias,
        wrapped.a.perturb_weight.theta,
        wrapped.fc.perturb_bias.theta,
    ):
        flat, step = parameter.detach().view(-1), 1e-6
        for i in {0, flat.numel() - 1}:
            with torch.no_grad():
                flat[i] += step
                up = loss()
                flat[i] -= 2 * step
                down = loss()
                flat[i] += step
            assert parameter.grad.view(-1)[i].item() == pytest.approx(
                (up - down).item() / (2 * step), rel=1e-5, abs=1e-7
            )
        assert parameter.grad.count_nonzero()


def test_noise_off_uses_the_weights_themselves():
    source, wrapped = made(Small, PARAMETER)
    source.eval(), wrapped.eval()
    state = torch.get_rng_state()
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X), source(X))
        assert torch.equal(wrapped.features(X), source.features(X))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(wrapped.features(X), wrapped.features(X))
    wrapped.b.perturb_weight.enabled = False
    _, drawn = record(wrapped, lambda: wrapped(X))
    assert "b.weight" not in drawn
    assert "a.weight" in drawn


def test_a_submodule_that_runs_alone_draws_for_itself():
    source, wrapped = made(Small, WEIGHT)
    assert not torch.equal(wrapped.a(X), wrapped.a(X))
    assert wrapped.a.weight is wrapped.a._parameters["weight"]
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped.a(X), source.a(X))
    assert perturbify.unwrap(wrapped).a(X).shape == (2, 4, 8, 8)
    assert torch.equal(wrapped.norm.eval()(torch.ones(2, 4, 8, 8)), source.norm.eval()(torch.ones(2, 4, 8, 8)))


@pytest.mark.parametrize("kind", [Recomputing, RecomputingReentrantly])
def test_checkpointing_inside_the_network_is_an_error(kind):
    source, wrapped = made(kind, WEIGHT)
    x = X.clone().requires_grad_()
    with pytest.raises(SurgeryError, match=r"without .* noise.*without activation checkpointing inside"):
        wrapped(x).sum().backward()
    with torch.no_grad():
        assert not torch.equal(wrapped(x), wrapped(x))
    with perturbify.noise(wrapped, enabled=False):
        for network in (wrapped, source):
            network(x).square().sum().backward()
    assert torch.equal(wrapped.b.weight.grad, source.b.weight.grad)


def test_checkpointing_by_timm():
    network = timm.create_model("test_resnet", num_classes=5)
    wrapped = wrap(network, WEIGHT, example_input=LARGE).train()
    wrapped.set_grad_checkpointing()
    with pytest.raises(SurgeryError, match="activation checkpointing recomputes without the noise"):
        wrapped(LARGE).sum().backward()
    wrapped.set_grad_checkpointing(False)
    wrapped(LARGE).sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_the_whole_network_repeats_its_draw(reentrant):
    _, wrapped = made(Small, PARAMETER)
    found = []
    for run in (wrapped, lambda x: checkpoint(wrapped, x, use_reentrant=reentrant)):
        wrapped.zero_grad()
        x = X.clone().requires_grad_()
        torch.manual_seed(2)
        run(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in wrapped.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(g is not None for g in found[1])


def test_other_torch_errors_are_unchanged():
    _, wrapped = made(Small, WEIGHT)
    with pytest.raises(RuntimeError, match="channels"):
        wrapped(torch.rand(2, 5, 8, 8))


def test_weights_that_a_forward_writes_are_refused():
    class Clipping(Small):
        def forward(self, x):
            self.a.weight.data.clamp_(-0.1, 0.1)
            return super().forward(x)

    with pytest.raises(SurgeryError, match="Clipping writes into its weights in its forward"):
        wrap(Clipping(), WEIGHT, example_input=X)
    with pytest.raises(SurgeryError, match=r"0\.weight has no shape before the first forward\. Run the network once"):
        wrap(nn.Sequential(nn.LazyConv2d(4, 3)), WEIGHT, example_input=X)


@pytest.mark.parametrize("config", [WEIGHT, PARAMETER], ids=["weight", "parameter"])
@pytest.mark.parametrize("kind", [Small, Tied, Attending, Listed])
def test_copies_and_files(kind, config):
    _, wrapped = made(kind, config)
    wrapped.eval()

    def seeded(network):
        torch.manual_seed(4)
        with torch.no_grad():
            return network(X)

    want = seeded(wrapped)
    for twin in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert torch.equal(seeded(twin), want)
        assert not torch.equal(twin(X), twin(X))
    file = io.BytesIO()
    torch.save(wrapped.state_dict(), file)
    file.seek(0)
    _, other = made(kind, config, seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(seeded(other.eval()), want)
    again = wrap(perturbify.unwrap(wrapped), config, example_input=X)
    assert torch.equal(seeded(again), want)


@pytest.mark.parametrize("config", [WEIGHT, PARAMETER], ids=["weight", "parameter"])
def test_dtypes_formats_and_swapped_parameters(config):
    source, wrapped = made(Small, config)
    source.eval(), wrapped.eval()
    for change in ({"dtype": torch.bfloat16}, {"dtype": torch.float64}, {"memory_format": torch.channels_last}):
        x, plain, noisy = (v.to(**change) for v in (X, copy.deepcopy(source), copy.deepcopy(wrapped)))
        out, drawn = record(noisy, lambda noisy=noisy, x=x: noisy(x))
        assert out.dtype == x.dtype
        assert all(drawn[n].dtype == p.dtype for n, p in plain.named_parameters() if n in drawn)
        assert torch.equal(out, torch.func.functional_call(plain, drawn, (x,)))
        with perturbify.noise(noisy, enabled=False):
            assert torch.equal(noisy(x), plain(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wrapped(X).dtype == torch.bfloat16
    zeros = {n: torch.zeros_like(p) for n, p in wrapped.named_parameters() if n.startswith("fc.") and "theta" not in n}
    out, drawn = record(wrapped, lambda: torch.func.functional_call(wrapped, zeros, (X,)))
    assert torch.equal(drawn["fc.weight"].count_nonzero() > 0, torch.tensor(config is PARAMETER))


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="torch.compile before 2.14 (2.8 and 2.11 were tried) cannot delete from a module's __dict__",
)
@pytest.mark.parametrize(("kind", "config"), [(Small, WEIGHT), (Tied, PARAMETER), (Gained, PARAMETER)])
def test_compiled_and_exported(kind, config):
    source, wrapped = made(kind, config)
    source.eval(), wrapped.eval()
    torch._dynamo.reset()
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(X), compiled(X))
    compiled(X).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in wrapped.parameters() if p.numel() > 1)
    with perturbify.noise(wrapped, enabled=False):
        torch.testing.assert_close(compiled(X), source(X))
    assert wrapped.get_parameter("a.weight" if kind is not Gained else "0.weight").is_leaf
    exported = torch.export.export(wrapped, (X,)).module()
    assert not torch.equal(exported(X), exported(X))


def test_the_noise_module_never_runs_as_a_layer():
    _, wrapped = made(Listed, PARAMETER)
    shapes = {s.name: s.map_shape for s in wrapped.surgery.plan.sites}
    calls = []
    for name, perturbation in perturbify.perturbations(wrapped):
        perturbation.register_forward_hook(lambda m, i, o, name=name: calls.append((name, tuple(i[0].shape))))
    wrapped(X)
    assert sorted(calls) == sorted(shapes.items())
    assert all(isinstance(wrapped.get_submodule(s.path), Perturbation) for s in wrapped.surgery.plan.sites)
