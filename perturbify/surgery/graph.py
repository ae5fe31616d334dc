"""The torch.fx pass: adds a perturbation node at every convolution node of a graph.

It runs on the graphs of single modules whose forward does more after its convolution
(:class:`~perturbify.surgery.sites.inside.Inside`) and on graph modules traced elsewhere (:func:`insert_noise`);
:func:`graph` returns a whole wrapped network as one graph.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from perturbify.arguments import check_type
from perturbify.copying import copy_network
from perturbify.errors import AlreadyWrapped, NoConvolutions, TraceError
from perturbify.example import Example, from_description
from perturbify.generators import reproducible
from perturbify.perturbation import Perturbation, child_name, perturbations, site_name
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.noisy import Perturbed
from perturbify.surgery.observe import convolves
from perturbify.surgery.plan import left_out, theta_shape
from perturbify.surgery.verify import same
from perturbify.text import first_line

_FUNCTIONS = frozenset(
    (
        *(torch.conv1d, torch.conv2d, torch.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    )
)
_DEFORMABLE = "torchvision.ops.deform_conv"
_CALLING = ("torch.nn.functional", "timm.layers.padding")
"""Modules by whose names such functions are called."""


def _functions() -> frozenset[Any]:
    """The functions that convolve; torchvision's among them once a network has imported it, which takes seconds."""
    deformable = sys.modules.get(_DEFORMABLE)
    return _FUNCTIONS if deformable is None else _FUNCTIONS | {deformable.deform_conv2d}


def is_convolution(node: fx.Node, root: nn.Module | None = None) -> bool:
    """Whether a node of a graph is a convolution: a function, an operator or, with ``root``, a module below that."""
    if node.op == "call_module" and root is not None:
        return isinstance(root.get_submodule(str(node.target)), _ConvNd)
    if node.op != "call_function":
        return False
    operator = getattr(node.target, "default", node.target)
    return node.target in _functions() or (hasattr(operator, "_schema") and convolves(operator))


def insert(nodes: Sequence[fx.Node], places: Sequence[str | None], *, before: bool = False) -> None:
    """The pass: adds a call of a noise module at each node.

    Args:
        nodes: Convolutions (or other nodes that return a feature map) of one graph, which is changed.
        places: Path of each one's noise module; None leaves the node as it is.
        before: Whether to perturb the node's first input, for this node alone.
    """
    for node, place in zip(nodes, places, strict=True):
        if place is None:
            continue
        if before:
            taken = node.args[0] if node.args else node.kwargs["input"]
            with node.graph.inserting_before(node):
                noisy = node.graph.call_module(place, (taken,))
            if node.args:
                node.update_arg(0, noisy)
            else:
                node.update_kwarg("input", noisy)
            continue
        with node.graph.inserting_after(node):
            noisy = node.graph.call_module(place, (node,))
        node.replace_all_uses_with(noisy, delete_user_cb=partial(operator.is_not, noisy))


class Tracer(fx.Tracer):
    """Records one forward; a leaf stays a call of that module.

    Args:
        whole: Whether a module is a leaf.
        searched: Names of the Python modules in which leaf functions are looked up.
    """

    # As a proxy, a buffer stays in the graph; as a value, what is computed from it would become a constant.
    proxy_buffer_attributes = True

    def __init__(self, whole: Callable[[nn.Module], bool], searched: set[str]) -> None:
        super().__init__(autowrap_modules=(math,), autowrap_functions=(*_functions(), *_whole_functions()))
        self._autowrap_search += [sys.modules[m] for m in {*searched, *_CALLING} if m in sys.modules]
        self._whole = whole
        self._inputs: tuple[tuple[Any, ...], Mapping[str, Any]] = (), {}
        self._held: dict[str, Tensor] = {}
        self._surroundings = _surroundings()
        self.constants: list[Tensor] = []
        self.failed = ""

    def record(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> fx.Graph:
        """Traces a module's forward; its tensor arguments become placeholders, in order, all others are fixed."""
        self._inputs = args, kwargs
        held = *module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)
        self._held = dict(held)
        with torch.enable_grad():  # as when the network is called, so that code that turns it off shows
            recorded = self.trace(module)
        for node in recorded.nodes:
            node.meta.pop("is_wrapped", None)  # only the generated code's tracer needs it
        return recorded

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Returns the inputs of :meth:`record`, tensors replaced, and a function that takes them."""
        numbers = count()
        args, kwargs = pytree.tree_map_only(
            (Tensor, fx.Proxy),
            lambda _: self.create_proxy("placeholder", f"input_{next(numbers)}", (), {}),
            self._inputs,
        )

        def forward(self: nn.Module, *given: Any) -> Any:
            return root_fn(self, *given, **kwargs)

        return forward, [self.root, *args]

    def call_module(self, m: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls a module, and records the innermost that cannot be traced."""
        try:
            return super().call_module(m, *args, **kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is a leaf."""
        return self._whole(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The proxy of a node's result."""
        if node.op == "get_attr":
            held = self._held.get(str(node.target))
            return super().proxy(node) if held is None else _Held(node, self, held)
        return super().proxy(node)

    def create_arg(self, a: Any) -> Any:
        """Puts a value into the graph, including kinds that torch.fx does not know."""
        if isinstance(a, dict) and is_dataclass(a):  # as the outputs of transformers are
            kwargs = {f.name: self.create_arg(getattr(a, f.name)) for f in fields(a)}
            return self.create_node("call_function", type(a), (), kwargs)
        if isinstance(a, dict) and type(a) not in (dict, immutable_dict):  # an OrderedDict stays one
            return self.create_node("call_function", type(a), (self.create_arg(dict(a)),), {})
        if isinstance(a, Tensor) and not self._is_held(a):
            if a.requires_grad:
                raise TraceError("it computes with its weights out of sight of torch.fx, which would freeze the result")
            return self._constant(a)
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Adds a node.

        Raises:
            TraceError: It is computed in a context that a graph does not record.
        """
        if not torch.is_grad_enabled():
            raise TraceError("it turns gradients off inside its forward, which a graph does not record")
        if _surroundings() != self._surroundings:
            raise TraceError("it turns on autocast or checkpointing, which a graph does not record")
        return super().create_node(*args, **kwargs)

    def _is_held(self, tensor: Tensor) -> bool:
        return any(tensor is held for held in self._held.values())

    def _constant(self, tensor: Tensor) -> fx.Node:
        """A tensor that the forward made: one more input, so that the module gets no new attribute."""
        number = next((i for i, known in enumerate(self.constants) if known is tensor), len(self.constants))
        name = f"constant_{number}"
        if number < len(self.constants):
            return next(n for n in self.graph.nodes if n.op == "placeholder" and n.target == name)
        self.constants.append(tensor)
        last = [n for n in self.graph.nodes if n.op == "placeholder"]
        with self.graph.inserting_after(last[-1]) if last else self.graph.inserting_before():
            return self.graph.placeholder(name)


class _Held(fx.Proxy):
    """A parameter or buffer in a graph; its shape depends on the network, not on its input."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, held: Tensor) -> None:
        super().__init__(node, tracer)
        self.shape, self.ndim, self.dim = held.shape, held.ndim, held.dim
        self.size, self.numel, self.nelement = held.size, held.numel, held.nelement


def graph(model: nn.Module, *, example_input: Any = None) -> fx.GraphModule:
    """Returns a wrapped network as one torch.fx graph in which every perturbation is a node.

    The graph is that of the network's current mode. It calls the network's own modules and parameters, so training
    one trains the other; modules without noise below them are leaves.

    Args:
        model: What :func:`perturbify.wrap` returned.
        example_input: Inputs to trace with, as for :func:`perturbify.wrap`; by default like those it was wrapped with.

    Returns:
        A graph module that returns, under the same draws, what the network returns.

    Raises:
        TraceError: torch.fx cannot trace a forward, or the graph computes something else; names the module.
    """
    if example_input is None and isinstance(model, Perturbed) and model.surgery.inputs:
        first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        example_input = pytree.tree_map_only(
            Tensor, lambda t: t.to(first.device), from_description(model.surgery.inputs, first.dtype)
        )
    example = Example.of(model, example_input)
    noisy = {m for m in model.modules() if any(isinstance(c, Perturbation) for c in m.modules())}
    searched = {type(m).forward.__module__ for m in noisy}
    tracer = Tracer(lambda m: isinstance(m, Perturbation) or m not in noisy, searched)
    try:
        recorded = tracer.record(model, example.args, example.kwargs)
    except Exception as error:  # anything that a proxy may cause in a network's code
        where = tracer.failed or type(model).__name__
        raise TraceError(
            f"torch.fx cannot trace {where}: {first_line(error).rstrip('.')}.",
            "The network itself runs and trains without a graph.",
        ) from error
    made = fx.GraphModule(model, recorded, type(model).__name__)
    placeholders = [n for n in made.graph.nodes if n.op == "placeholder"]
    names = [*example.names, *example.kwargs]
    for node, constant in zip(placeholders[len(placeholders) - len(tracer.constants) :], tracer.constants, strict=True):
        made.register_buffer(str(node.target), constant, persistent=False)
        with made.graph.inserting_after(node):
            node.replace_all_uses_with(made.graph.get_attr(str(node.target)))
        made.graph.erase_node(node)
    inputs = [n for n in made.graph.nodes if n.op == "placeholder"]
    if len(names) == len(inputs):
        for node, name in zip(inputs, names, strict=True):
            node.target = node.name = name
    made.recompile()
    made.training = model.training
    _same_under_the_same_draws(model, made, example)
    return made


def _same_under_the_same_draws(model: nn.Module, made: fx.GraphModule, example: Example) -> None:
    ours, theirs = copy_network(made), copy_network(model)
    tensors = [v for v in pytree.tree_leaves((example.args, example.kwargs)) if isinstance(v, Tensor)]
    with reproducible(model):
        got = ours(*tensors)
    with reproducible(model):
        want = theirs(*example.args, **example.kwargs)
    if not same(got, want):
        raise TraceError(
            f"torch.fx records {type(model).__name__} wrongly: its graph returns something else under the same draws.",
            "The network itself runs and trains without it.",
        )


def insert_noise(
    graph_module: fx.GraphModule,
    config: PerturbConfig = PerturbConfig(),
    *,
    example_input: Any = None,
) -> fx.GraphModule:
    """Adds a perturbation node behind every convolution node of a graph from any tracer.

    Args:
        graph_module: From ``torch.fx.symbolic_trace``, ``torch.export`` or another tracer; it is left as it was.
        config: The settings, with site ``"output"`` or ``"input"``; globs match the paths of convolution modules.
        example_input: A tensor or a tuple of tensors, to find the shapes of feature maps.

    Returns:
        A graph module with its own copies of the modules; each θ is ``<path>.perturb.theta``, or, where a convolution
        is a function, ``perturb.theta``, ``perturb_1.theta``, … below the root.

    Raises:
        AlreadyWrapped: It has noise already.
        NoConvolutions: It has no convolution node.
        TraceError: The example input does not run through the graph.
    """
    check_type(
        graph_module,
        fx.GraphModule,
        "insert_noise() takes a torch.fx.GraphModule",
        "Trace the network: torch.fx.symbolic_trace(network), or torch.export.export(network, inputs).module().",
    )
    check_type(config, PerturbConfig, "The noise is a PerturbConfig", 'Give PerturbConfig(grain="channel"), or none.')
    if next(perturbations(graph_module), None) is not None:
        raise AlreadyWrapped("This graph already has noise modules.")
    made = copy_network(graph_module)
    graph = made.graph
    nodes = [n for n in graph.nodes if is_convolution(n, made)]
    example = example_input if isinstance(example_input, tuple) else (example_input,)
    shapes = _Shapes(made, nodes, before=config.site == "input")
    try:
        with torch.no_grad():
            shapes.run(*example)
    except Exception as error:  # a graph that the example does not fit
        raise TraceError(f"The graph does not run on the example input: {first_line(error)}.") from error
    places: list[str | None] = []
    seen: dict[str, int] = {}
    for node in nodes:
        owner = str(node.target) if node.op == "call_module" else ""
        number = seen[owner] = seen.get(owner, -1) + 1
        if left_out(owner, config) or (config.extent == "first" and any(places)):
            places.append(None)
            continue
        holder = made.get_submodule(owner)
        like = next((p for p in holder.parameters() if p.is_floating_point()), None)
        start = config.theta_init if config.theta_first is None or any(places) else config.theta_first
        noise = Perturbation(
            theta_shape(shapes.found[node], config.grain),
            site=site_name(owner, number),
            draw_per=config.draw_per,
            scale=config.scale,
            theta_init=float(start),
            theta_min=config.theta_min,
            learnable=config.learnable,
            device=None if like is None else like.device,
            dtype=None if like is None else like.dtype,
        )
        holder.add_module(child_name(number), noise)
        places.append(f"{owner}.{child_name(number)}".lstrip("."))
    if not any(places):
        raise NoConvolutions("This graph has no convolution node to put noise behind.")
    insert(nodes, places, before=config.site == "input")
    made.recompile()
    return made


class _Shapes(fx.Interpreter):
    """Runs a graph and records the shapes, for one image, of the inputs or outputs of certain nodes."""

    def __init__(self, module: fx.GraphModule, nodes: Sequence[fx.Node], *, before: bool) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, tuple[int, ...]] = {}
        self._nodes, self._before = set(nodes), before

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._nodes:
            taken = n.args[0] if n.args else n.kwargs["input"]
            assert isinstance(taken, fx.Node)
            tensor = self.env.get(taken) if self._before else value
            tensor = value if tensor is None else tensor
            self.found[n] = tuple(tensor.shape[1:])
        return value


def _whole_functions() -> tuple[Callable[..., Any], ...]:
    """Functions of timm's to record rather than enter; torchvision's are known to fx itself.

    They are those that timm declares as leaves (drop_path and others), and the one that computes "same" padding
    from an image's size, by a comparison that a proxy cannot make.
    """
    layers = sys.modules.get("timm.layers")
    registered = [*layers.get_notrace_functions(), layers.get_same_padding] if layers is not None else []
    return tuple(f for f in registered if callable(f))


def _surroundings() -> tuple[object, ...]:
    """Contexts that a forward may turn on for a part of itself, and that a graph would not record."""
    return (
        *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")),
        torch._C._autograd._top_saved_tensors_default_hooks(False),
    )
