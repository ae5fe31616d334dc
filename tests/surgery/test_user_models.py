"""Networks as their owners write them: each is wrapped, and asked eight questions."""

import copy
import dataclasses
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks.catalog import MODELS
from networks.interfaces import Bag, Namespace
from torch.utils import _pytree as pytree

import perturbify
from perturbify.copying import copy_network
from perturbify.perturbation import Perturbation
from perturbify.surgery.observe import ConvolutionCount

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # of reentrant checkpointing
]
MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def snapshot(network):
    return {
        "class": type(network),
        "modes": {p: m.training for p, m in network.named_modules()},
        "state": {k: v.clone() for k, v in network.state_dict().items()},
        "identities": {k: id(v) for k, v in (*network.named_parameters(), *network.named_buffers())},
        "requires_grad": {k: v.requires_grad for k, v in network.named_parameters()},
        "grads": {k: v.grad for k, v in network.named_parameters()},
        "attributes": {p: {k: id(v) for k, v in vars(m).items()} for p, m in network.named_modules()},
        "hooks": {p: [*m._forward_hooks, *m._forward_pre_hooks] for p, m in network.named_modules()},
    }


@pytest.fixture(scope="module", params=MODELS)
def user(request):
    make, example = MODELS[request.param]
    torch.manual_seed(0)
    source = make()
    before = snapshot(source)
    wrapped = perturbify.wrap(source, example_input=example)
    return SimpleNamespace(source=source, wrapped=wrapped, example=example, before=before, after=snapshot(source))


def call(network, example, *, images=2, seed=5, grad=False):
    """Output of a forward with the first ``images`` images of the example, and more of them made of the same."""
    resized = pytree.tree_map(lambda t: torch.cat([t, t.flip(0) * 0.9])[:images].detach(), example)
    if isinstance(example, torch.Tensor):
        resized.requires_grad_(example.requires_grad)
    args, kwargs = ((), resized) if isinstance(resized, dict) else (resized, {})
    if seed is not None:
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
    with torch.set_grad_enabled(grad):
        return network(*(args if isinstance(args, tuple) else (args,)), **kwargs)


def twin(network, training):
    """A copy that may run; by perturbify's own way, as not every network here supports ``copy.deepcopy``."""
    return copy_network(network).train(training)


def tensors(output):
    if isinstance(output, torch.distributions.Normal):
        output = [output.loc, output.scale]
    elif isinstance(output, Namespace):
        output = dict(output)
    elif dataclasses.is_dataclass(output) or isinstance(output, (SimpleNamespace, Bag)):
        output = dict(vars(output))
    return [t for t in pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]


def assert_equal(got, want):
    assert type(got) is type(want)
    ours, theirs = tensors(got), tensors(want)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)


def backward(output):
    for t in tensors(output):
        if t.requires_grad:  # nothing does where every weight is frozen and the noise is off
            t.abs().square().sum().backward(retain_graph=True)


@MODES
def test_every_convolution_call_is_in_the_plan(user, training):
    mode = "train" if training else "eval"
    with ConvolutionCount() as count:
        call(twin(user.source, training), user.example)
    plan = user.wrapped.surgery.plan
    found = [c for c in (*plan.sites, *plan.skipped) if c.modes in (mode, "both")]
    assert len(found) == count.total > 0
    assert {s.reason for s in plan.skipped} <= {"fixed filter, nothing learned"}
    assert plan.modes == ("eval", "train")


@MODES
@pytest.mark.parametrize("images", [2, 3])
def test_noise_off_matches_the_source(user, training, images):
    source, wrapped = twin(user.source, training), twin(user.wrapped, training)
    with perturbify.noise(wrapped, enabled=False):
        for _ in range(2):
            assert_equal(call(wrapped, user.example, images=images), call(source, user.example, images=images))
    buffers = dict(wrapped.named_buffers())
    for name, value in source.named_buffers():
        assert torch.equal(buffers[name], value), name


@MODES
def test_gradients_with_noise_off_match_the_source(user, training):
    source, wrapped = twin(user.source, training), twin(user.wrapped, training)
    backward(call(source, user.example, grad=True))
    with perturbify.noise(wrapped, enabled=False):
        backward(call(wrapped, user.example, grad=True))
    theirs, ours = dict(source.named_parameters()), dict(wrapped.named_parameters())
    for name, parameter in theirs.items():
        assert (ours[name].grad is None) == (parameter.grad is None), name
        assert parameter.grad is None or torch.equal(ours[name].grad, parameter.grad), name


@MODES
def test_noise_on_is_fresh_at_every_site(user, training):
    wrapped = twin(user.wrapped, training)
    noisy = []
    for name, perturbation in perturbify.perturbations(wrapped):
        perturbation.register_forward_hook(
            lambda _m, inputs, output, name=name: noisy.append((name, bool((inputs[0] != output).float().mean() > 0.9)))
        )
    one, two = (call(wrapped, user.example, seed=None) for _ in range(2))
    assert all(not torch.equal(a, b) for a, b in zip(tensors(one), tensors(two), strict=True))
    mode = "train" if training else "eval"
    expected = [(s.name, True) for s in wrapped.surgery.plan.sites if s.modes in (mode, "both")]
    assert sorted(noisy) == sorted(expected * 2)


def test_wrapping_leaves_the_source_unchanged(user):
    before, after = dict(user.before), dict(user.after)
    state, now = before.pop("state"), after.pop("state")
    assert before == after
    assert list(state) == list(now)
    assert all(torch.equal(value, now[name]) for name, value in state.items())


def test_a_backward_pass_reaches_every_theta(user):
    reached = set()
    for training in (False, True):
        wrapped = twin(user.wrapped, training)
        backward(call(wrapped, user.example, grad=True))
        reached |= {n for n, p in perturbify.perturbations(wrapped) if p.theta.grad is not None and p.theta.grad.any()}
    assert reached == {s.name for s in user.wrapped.surgery.plan.sites}


def test_unwrapping_restores_the_source(user):
    bare = perturbify.unwrap(user.wrapped)
    assert type(bare) is type(user.source)
    assert bare.training == user.source.training
    assert bare.state_dict().keys() == user.source.state_dict().keys()
    assert set(vars(bare)) == set(vars(user.source)) - {"_compiled_call_impl"}  # which nn.Module itself does not copy
    assert not any(isinstance(m, Perturbation) for m in bare.modules())
    for training in (False, True):
        assert_equal(call(twin(bare, training), user.example), call(twin(user.source, training), user.example))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_it_copies_where_the_source_does(user, copied):
    try:
        call(copied(user.source), user.example)
    except Exception as error:
        pytest.skip(f"the source does not: {error}")
    for training in (False, True):
        wrapped = twin(user.wrapped, training)
        one, other = copied(wrapped), copied(wrapped)
        assert one.training == training
        assert_equal(call(one, user.example), call(wrapped, user.example))
        with perturbify.noise(other, enabled=False):
            assert_equal(call(other, user.example), call(twin(user.source, training), user.example))


def test_every_key_of_the_source_survives(user):
    ours, theirs = user.wrapped.state_dict(), user.source.state_dict()
    thetas = {n for n, _ in user.wrapped.named_parameters(remove_duplicate=False) if n.endswith(".theta")}
    thetas |= {"perturb.theta"} & set(ours)
    assert thetas >= {f"{s.path}.theta" for s in user.wrapped.surgery.plan.sites}
    assert set(ours) == set(theirs) | thetas
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    trained = twin(user.wrapped, True)
    assert trained.load_state_dict(theirs, strict=False).unexpected_keys == []
