"""Every way to convolve has its noise directly behind the convolution, whatever the module does after it."""

import copy
import pickle

import pytest
import torch
from networks.behaviour import seeded
from networks.calls import CALLS, IMAGES, Composite, Functional, Optional, Repeated
from torch import nn
from torch.utils import _pytree as pytree

import perturbify
from perturbify import PerturbConfig, normal
from perturbify.errors import TraceError
from perturbify.surgery.observe import ConvolutionCount


@pytest.fixture(params=CALLS)
def case(request, monkeypatch):
    monkeypatch.setattr(normal, "_normal", None)  # torch's draws, as in networks that are compiled
    make, example, ways = CALLS[request.param]
    torch.manual_seed(0)
    source = make()
    return source, perturbify.wrap(source, example_input=example), example, ways


def run(network, example, **more):
    return network(**example, **more) if isinstance(example, dict) else network(example)


def leaves(value):
    return pytree.tree_leaves(value)


def equal(a, b):
    return len(leaves(a)) == len(leaves(b)) > 0 and all(map(torch.equal, leaves(a), leaves(b)))


def test_ways_and_calls(case):
    source, wrapped, example, ways = case
    assert {s.name: s.way for s in wrapped.surgery.plan.sites} == ways
    assert all(s.why for s in wrapped.surgery.plan.sites)
    for mode in ("eval", "train"):
        with ConvolutionCount() as count:
            run(copy.deepcopy(source).train(mode == "train"), example)
        assert count.total == sum(s.modes in (mode, "both") for s in wrapped.surgery.plan.sites)


def test_copies_and_noise_off(case):
    source, wrapped, example, _ = case
    wrapped.eval(), source.eval()
    want = seeded(lambda x: run(wrapped, x), example)
    for twin in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert equal(seeded(lambda x, twin=twin: run(twin, x), example), want)
    assert not equal(run(wrapped, example), run(wrapped, example))
    with perturbify.noise(wrapped, enabled=False):
        assert equal(run(wrapped, example), run(source, example))
    bare = perturbify.unwrap(wrapped)
    assert equal(run(bare, example), run(source, example))
    assert {type(m) for m in bare.modules()} == {type(m) for m in source.modules()}


def test_gradients_reach_every_theta(case):
    _, wrapped, example, _ = case
    for mode in ("train", "eval"):
        sum(leaf.float().square().sum() for leaf in leaves(run(wrapped.train(mode == "train"), example))).backward()
    assert all(p.theta.grad is not None and p.theta.grad.any() for _, p in perturbify.perturbations(wrapped))


def test_compiled_and_exported(case, request):
    _, wrapped, example, _ = case
    if "quantized" in request.node.name or "inner" in request.node.name:
        pytest.skip("the source does not compile without graph breaks")
    torch.compiler.reset()
    wrapped.eval()
    compiled = torch.compile(wrapped, fullgraph=True, backend="eager")
    assert equal(seeded(lambda x: run(compiled, x), example), seeded(lambda x: run(wrapped, x), example))
    assert not equal(run(compiled, example), run(compiled, example))
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})
    program = torch.export.export(wrapped, args, kwargs)
    drawn = sum(n.target is torch.ops.aten.randn_like.default for n in program.graph.nodes)
    assert drawn == sum(s.modes in ("eval", "both") for s in wrapped.surgery.plan.sites)
    torch.compiler.reset()


def test_noise_is_before_the_normalisation_and_the_activation():
    torch.manual_seed(0)
    wrapped = perturbify.wrap(nn.Sequential(Composite(3, 4, 3)), example_input=IMAGES).eval()
    seen = {}
    wrapped[0].perturb.register_forward_hook(lambda _m, i, o: seen.update(clean=i[0], noisy=o))
    wrapped[0].norm.register_forward_hook(lambda _m, i, _o: seen.update(normed=i[0]))
    out = wrapped(IMAGES)
    assert torch.equal(seen["clean"], nn.functional.conv2d(IMAGES, wrapped[0].weight, wrapped[0].bias))
    assert torch.equal(seen["normed"], seen["noisy"])
    assert (out >= 0).all()


def test_images_concatenated_along_the_channels():
    for name in ("correlation", "dynamic"):
        make, example, _ = CALLS[name]
        wrapped = perturbify.wrap(make(), example_input=example)
        assert wrapped.surgery.plan.sites[-1].batch_in_channels
        more = torch.cat([example, example, example])
        seen = {}
        last = wrapped.get_submodule(wrapped.surgery.plan.sites[-1].path)
        last.register_forward_hook(lambda _m, i, o, seen=seen: seen.update(noise=o - i[0]))
        wrapped(more)
        noise = seen["noise"].view(len(more), -1)
        assert not torch.equal(noise[0], noise[2])  # each image has draws of its own


def test_a_state_not_seen_during_wrapping():
    wrapped = perturbify.wrap(Functional(), example_input=IMAGES).eval()
    with perturbify.noise(wrapped, enabled=False):
        before = wrapped(IMAGES)
        wrapped.scale = 4.0
        torch.testing.assert_close(wrapped(IMAGES), before * 4)
        torch.testing.assert_close(wrapped.double()(IMAGES.double()), before.double() * 4, rtol=1e-4, atol=1e-4)
    optional = perturbify.wrap(Optional(), example_input=IMAGES).eval()
    assert isinstance(optional(IMAGES, pair=False), dict)
    with perturbify.noise(optional, enabled=False):
        assert not optional(IMAGES, torch.zeros(1))[0].any()
    assert not torch.equal(optional(IMAGES, torch.ones(1))[0], optional(IMAGES, torch.ones(1))[0])


def test_more_calls_than_at_wrapping():
    class Often(Repeated):
        times = 1

        def forward(self, x):
            for _ in range(self.times):
                x = super().forward(x)
            return x

    source = Often()
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=IMAGES)
    wrapped.times = 2
    with pytest.raises((TraceError, perturbify.PerturbifyError), match=r'block#3.*more often than.*theta_per="module"'):
        wrapped(IMAGES)
    shared = perturbify.wrap(source, PerturbConfig(grain="channel", theta_per="module"), example_input=IMAGES)
    shared.times = 2
    assert not torch.equal(shared(IMAGES), shared(IMAGES))
