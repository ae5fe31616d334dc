"""torch.fx, and what it cannot enter."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from perturbify.errors import TraceError
from perturbify.surgery.sites import CONV_FUNCTIONS, Call, first_line


@dataclass(frozen=True)
class Traced:
    """A network as a graph, in one mode.

    Attributes:
        graph: The operations; modules are referred to by path, so the graph serves every copy of the network.
        convolutions: Each convolution node with the call it stands for, in order of execution.
        constants: Tensors that the trace made and the network does not hold, by the name the graph calls them.
    """

    graph: fx.Graph
    convolutions: tuple[tuple[fx.Node, Call], ...]
    constants: dict[str, Tensor]

    def is_learned(self, node: fx.Node, model: nn.Module) -> bool:
        """Whether a convolution's filter comes from a parameter; a fixed filter (a blur's buffer) does not."""
        if node.op == "call_module":
            return True
        weight = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
        pending, seen = [weight], set[fx.Node]()
        while pending:
            current = pending.pop()
            if not isinstance(current, fx.Node) or current in seen:
                continue
            seen.add(current)
            if current.op == "get_attr" and isinstance(_attribute(model, str(current.target)), nn.Parameter):
                return True
            pending.extend(current.all_input_nodes)
        return False


def trace(model: nn.Module, calls: Collection[Call], live: Collection[str]) -> Traced:
    """Follows a network's forward in its present mode.

    Tracing runs parts of the network for real, so hand in a copy.

    Args:
        model: The network, in the mode to trace.
        calls: The convolution calls a real forward pass made in this mode, in order; the graph must show the same.
        live: Names of forward's arguments that stay inputs; the others are fixed to their defaults.

    Raises:
        TraceError: The forward has something that torch.fx cannot follow, or the graph shows other calls.
    """
    tracer = _Tracer(model, calls, live)
    before = set(model.__dict__)
    try:
        graph = tracer.trace(model)
    except Exception as error:
        inside = tracer.path or "its own forward"
        raise TraceError(
            f"torch.fx cannot follow {type(model).__name__}: it stops in {inside} ({first_line(error)}).",
            "Wrap the part of the network that can be traced.",
        ) from error
    constants = {k: v for k, v in model.__dict__.items() if k not in before and isinstance(v, Tensor)}
    return Traced(graph, _pair(graph, model, calls), constants)


def _pair(graph: fx.Graph, model: nn.Module, calls: Collection[Call]) -> tuple[tuple[fx.Node, Call], ...]:
    nodes = [n for n in graph.nodes if _is_convolution(n, model)]
    found = [str(n.target) if n.op == "call_module" else None for n in nodes]
    wanted = [c.owner for c in calls]
    for number, (have, want) in enumerate(zip(found, wanted, strict=False)):
        if have not in (None, want):
            raise TraceError(
                f"The graph of {type(model).__name__} calls {have} as convolution {number}, the network calls {want}."
            )
    if len(found) != len(wanted):
        raise TraceError(
            f"The graph of {type(model).__name__} has {len(found)} convolution calls, the network makes {len(wanted)}.",
            "Its forward depends on values that torch.fx does not see.",
        )
    return tuple(zip(nodes, calls, strict=True))


def _is_convolution(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), _ConvNd)
    return node.op == "call_function" and node.target in CONV_FUNCTIONS


class _Tracer(fx.Tracer):
    """Enters a module only if a convolution runs below it.

    Norm layers, attention, drop-path and the rest stay whole, with their own flags and counters: entered, a norm layer
    would have its training flag baked into the graph and its batch counter lost.
    """

    # As a proxy, a buffer keeps its place in the graph; as a value, what is computed from it would be baked in.
    proxy_buffer_attributes = True

    def __init__(self, model: nn.Module, calls: Collection[Call], live: Collection[str]) -> None:
        # A parameter's shape is a fact about the network, not about its input.
        super().__init__(
            autowrap_modules=(math,), autowrap_functions=_whole_functions(), param_shapes_constant=True
        )
        self.path = ""
        self._live = frozenset(live)
        convolving = {c.owner for c in calls} | {p for p, m in model.named_modules() if isinstance(m, _ConvNd)}
        self._enter = {p for owner in convolving for p in _ancestors(owner)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _ConvNd) or module_qualified_name not in self._enter

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        outer, self.path = self.path, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.path = outer  # not restored after an error: it then names where the trace stopped
        return result

    def _proxy_placeholder(
        self, name: str, concrete_args: Any, sig: inspect.Signature, fn_for_analysis: Callable[..., Any]
    ) -> Any:
        bare = name.lstrip("*")
        if bare in self._live:
            return super()._proxy_placeholder(name, concrete_args, sig, fn_for_analysis)
        kind = sig.parameters[bare].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return ()
        if kind is inspect.Parameter.VAR_KEYWORD:
            return {}
        return sig.parameters[bare].default


def _whole_functions() -> tuple[Callable[..., Any], ...]:
    """Functions that timm registers as not to be entered (drop_path and others); torchvision's are known to fx itself."""
    layers = sys.modules.get("timm.layers")
    registered = layers.get_notrace_functions() if layers is not None else ()
    return tuple(f for f in registered if callable(f))


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def _attribute(model: nn.Module, path: str) -> object:
    value: object = model
    for name in path.split("."):
        value = getattr(value, name)
    return value
