"""The torch.fx pass as a product: graphs with a perturbation node behind every convolution node."""

import copy

import pytest
import timm
import torch
import torchvision
from networks.behaviour import seeded
from networks.calls import IMAGES, Composite, Difference, Dynamic
from torch import fx, nn

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import AlreadyWrapped, NoConvolutions, TraceError
from perturbify.perturbation import Perturbation
from perturbify.surgery.graph import is_convolution

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def follows(graph_module):
    """Of each convolution node, whether its only user is a call of a noise module, in order."""
    found = []
    for node in graph_module.graph.nodes:
        if is_convolution(node, graph_module):
            (user,) = node.users
            found.append(isinstance(graph_module.get_submodule(str(user.target)), Perturbation))
    return found


WHOLE = {
    "resnet": (lambda: torchvision.models.resnet18(num_classes=3), X),
    "vit": (lambda: timm.create_model("test_vit", num_classes=3, img_size=32), X),
    "convnext": (lambda: timm.create_model("convnext_atto", num_classes=3), X),
    "difference": (Difference, IMAGES),
    "dynamic": (Dynamic, IMAGES),
    "repeated": (lambda: nn.Sequential(Composite(3, 3, 3, padding=1), Composite(3, 3, 3, padding=1)), IMAGES),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_network_as_a_graph(name, training):
    make, x = WHOLE[name]
    torch.manual_seed(0)
    wrapped = perturbify.wrap(make(), example_input=x).train(training)
    graph = perturbify.graph(wrapped)
    assert isinstance(graph, fx.GraphModule)
    assert follows(graph) == [True] * len(wrapped.surgery.plan.sites)
    assert torch.equal(seeded(graph, x), seeded(copy.deepcopy(wrapped), x))
    assert graph.get_submodule(wrapped.surgery.plan.sites[0].path) is wrapped.get_submodule(
        wrapped.surgery.plan.sites[0].path
    )
    assert not hasattr(wrapped, "constant_0")


def test_a_network_torch_fx_cannot_follow_is_named():
    wrapped = perturbify.wrap(timm.create_model("efficientvit_b0"), PerturbConfig(grain="channel"))
    with pytest.raises(TraceError, match=r"torch\.fx cannot trace stages\.\d\S*: "):
        perturbify.graph(wrapped)


def test_inputs_keep_their_names():
    wrapped = perturbify.wrap(torchvision.models.resnet18(num_classes=3), example_input={"x": X}).eval()
    graph = perturbify.graph(wrapped)
    assert [n.name for n in graph.graph.nodes if n.op == "placeholder"] == ["x"]
    assert graph(x=X).shape == (2, 3)


GRAPHS = {
    "symbolic_trace": fx.symbolic_trace,
    "torch.export": lambda network: torch.export.export(network, (X,)).module(),
}


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec")  # of torch 2.11's own copy of an exported program
@pytest.mark.parametrize("trace", GRAPHS)
@pytest.mark.parametrize("settings", [{}, {"grain": "channel", "draw_per": "batch"}, {"site": "input"}])
def test_the_pass_accepts_graphs_traced_elsewhere(trace, settings):
    torch.manual_seed(0)
    source = torchvision.models.resnet18(num_classes=3).eval()
    graph = GRAPHS[trace](source)
    before = str(graph.graph)
    noisy = perturbify.insert_noise(graph, PerturbConfig(**settings), example_input=X)
    assert str(graph.graph) == before
    assert len(list(perturbify.perturbations(noisy))) == 20
    if settings.get("site") != "input":
        assert follows(noisy) == [True] * 20
    with torch.no_grad():
        assert not torch.equal(noisy(X), noisy(X))
        with perturbify.noise(noisy, enabled=False):
            assert torch.equal(noisy(X), graph(X))
    noisy(X).sum().backward()
    assert all(p.theta.grad is not None for _, p in perturbify.perturbations(noisy))


def test_graphs_that_the_pass_refuses():
    graph = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    noisy = perturbify.insert_noise(graph, example_input=X)
    with pytest.raises(AlreadyWrapped):
        perturbify.insert_noise(noisy, example_input=X)
    with pytest.raises(NoConvolutions):
        perturbify.insert_noise(fx.symbolic_trace(nn.Linear(3, 4)), example_input=torch.rand(2, 3))
    with pytest.raises(TraceError, match="does not run on the example input"):
        perturbify.insert_noise(graph, example_input=torch.rand(2, 5, 8, 8))
    some = perturbify.insert_noise(
        fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))),
        PerturbConfig(exclude=("0",)),
        example_input=X,
    )
    assert [n for n, _ in perturbify.perturbations(some)] == ["1"]
