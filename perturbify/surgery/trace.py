"""torch.fx, and what it cannot enter."""

from __future__ import annotations

import inspect
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from types import new_class
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict
from torch.nn.modules.conv import _ConvNd

from perturbify.errors import TraceError
from perturbify.surgery.sites import CONV_FUNCTIONS, Call
from perturbify.surgery.snapshot import Snapshot
from perturbify.text import first_line


@dataclass(frozen=True)
class Convolution:
    """A convolution call of a network and where it stands in its graph.

    Attributes:
        call: The call, as it was observed.
        node: Its node; None inside of a module that torch.fx could not enter.
        learned: Whether its filter comes from anything learned; a fixed one (a blur's buffer) does not.
    """

    call: Call
    node: fx.Node | None
    learned: bool


@dataclass(frozen=True)
class Addition:
    """A sum of two feature maps of equal shape.

    Attributes:
        owner: Dotted path of the module whose forward adds.
        shape: Shape of the sum for one image.
        node: Its node.
    """

    owner: str
    shape: tuple[int, ...]
    node: fx.Node


@dataclass(frozen=True)
class Traced:
    """A network as a graph, in one mode.

    Attributes:
        graph: The operations; modules are referred to by path, so the graph serves every copy of the network. None
            where torch.fx cannot follow the network's own forward.
        convolutions: Every convolution call, in order of execution.
        opaque: Paths of the modules that torch.fx could not enter, and why; ``""`` is the network itself.
        constants: Tensors that the trace made and the network does not hold, by the name the graph calls them.
        reads_mode: Whether code that torch.fx entered looked at a ``training`` flag; if not, and nothing is opaque,
            the graph is that of the other mode too.
        additions: The sums of two feature maps, where they were looked for.
    """

    graph: fx.Graph | None
    convolutions: tuple[Convolution, ...]
    opaque: dict[str, str]
    constants: dict[str, Tensor]
    reads_mode: bool
    additions: tuple[Addition, ...] = ()


def untraced(calls: Collection[Call], reason: str) -> Traced:
    """A network as torch.fx sees it when it cannot, or shall not, follow it: one opaque module."""
    return Traced(None, tuple(Convolution(c, None, not c.fixed) for c in calls), {"": reason}, {}, reads_mode=True)


def trace(model: nn.Module, calls: Collection[Call], live: Collection[str], *, refuse_meta: bool = False) -> Traced:
    """Follows a network's forward in its present mode, as far as torch.fx can.

    A module that cannot be entered stays whole, a node of the graph like any other; only where that is the network's
    own forward there is no graph.

    Args:
        model: A copy of the network, in the mode to trace, for this alone: tracing runs parts of it and leaves proxies
            in its caches. With its parameters on the meta device, whatever is computed from them outside of the graph
            is known by its device, and not mistaken for a constant.
        calls: The convolution calls a real forward pass made in this mode, in order; the graph must show the same.
        live: Names of forward's arguments that stay inputs; the others are fixed to their defaults.
        refuse_meta: Whether a tensor on the meta device is no constant.
    """
    noticed = _notice_training(model)
    tracer = _Tracer(model, calls, live, refuse_meta)
    before = set(model.__dict__)
    try:
        # Gradients are on, as when the network is called, so that a switch of them shows.
        with _refusing_own_gradients(), torch.enable_grad():
            held, drawn = Snapshot([model]), _numpy_state()
            graph = tracer.trace(model)
            tracer.refuse_frozen_draws(_numpy_state() != drawn)  # slow to ask, so only here
            _refuse_keeping(held)
        convolutions = _pair(graph, model, calls, tracer.opaque)
    except Exception as error:
        return untraced(calls, first_line(error))
    used = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    added = {k: v for k, v in model.__dict__.items() if k not in before and k in used}
    constants = {k: v.detach() for k, v in added.items() if isinstance(v, Tensor)}
    return Traced(graph, convolutions, tracer.opaque, constants, reads_mode=bool(noticed))


def _pair(
    graph: fx.Graph, model: nn.Module, calls: Collection[Call], opaque: Collection[str]
) -> tuple[Convolution, ...]:
    """Finds the node of each call: the calls stand in order of execution, as the nodes do.

    Raises:
        TraceError: The graph shows other calls than the network makes.
    """
    pending = deque(calls)
    by_path = dict(model.named_modules(remove_duplicate=False))
    found: list[Convolution] = []
    for node in graph.nodes:
        if node.op == "call_module" and node.target in opaque:
            inside = {path for path, _ in _named_below(model, str(node.target))}
            while pending and pending[0].owner in inside:
                call = pending.popleft()
                found.append(Convolution(call, None, not call.fixed))
        elif _is_convolution(node, by_path):
            if not pending or (node.op == "call_module" and node.target != pending[0].owner):
                raise TraceError(f"its graph calls {node.target} where the network does not")
            found.append(Convolution(pending.popleft(), node, _is_learned(node, model)))
    if pending:
        raise TraceError(f"its graph lacks {len(pending)} of its {len(calls)} convolution calls")
    return tuple(found)


def _named_below(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """The modules at and below a path, under the names that the whole network knows them by."""
    below = set(model.get_submodule(path).modules())
    return [(name, m) for name, m in model.named_modules() if m in below]


def _is_learned(node: fx.Node, model: nn.Module) -> bool:
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
        if current.op == "call_module" and any(True for _ in model.get_submodule(str(current.target)).parameters()):
            return True
        pending.extend(current.all_input_nodes)
    return False


def _is_convolution(node: fx.Node, by_path: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(by_path[str(node.target)], _ConvNd)
    return node.op == "call_function" and node.target in CONV_FUNCTIONS


class _Tracer(fx.Tracer):
    """Enters a module only if a convolution runs below it.

    Norm layers, attention, drop-path and the rest stay whole, with their own flags and counters: entered, a norm layer
    would have its training flag baked into the graph and its batch counter lost.
    """

    # As a proxy, a buffer keeps its place in the graph; as a value, what is computed from it would be baked in.
    proxy_buffer_attributes = True

    def __init__(self, model: nn.Module, calls: Collection[Call], live: Collection[str], refuse_meta: bool) -> None:
        super().__init__(autowrap_modules=(math,), autowrap_functions=_whole_functions())
        # torch.fx records the functions above where a forward calls them, and where functions of these modules do.
        self._autowrap_search += [sys.modules[m] for m in _CALLING_WHOLE_FUNCTIONS if m in sys.modules]
        self._refuse_meta = refuse_meta
        self.opaque: dict[str, str] = {}
        self._proxies: dict[str, fx.Proxy] = {}
        self._live = frozenset(live)
        self._generators = _generators()
        self._surroundings = _surroundings()
        self._held = dict([*model.named_parameters(), *model.named_buffers()])
        # A module may be registered under several names; whatever holds it under any of them is entered.
        by_path = dict(model.named_modules(remove_duplicate=False))
        convolving = {by_path[c.owner] for c in calls} | {m for m in by_path.values() if isinstance(m, _ConvNd)}
        self._enter = {a for path, m in by_path.items() if m in convolving for a in _ancestors(path)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        path = module_qualified_name
        return isinstance(m, _ConvNd) or path in self.opaque or path not in self._enter

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        before, held = len(self.graph.nodes), Snapshot([m])
        stack, counts = self.module_stack.copy(), self.num_calls.copy()
        try:
            result = super().call_module(m, forward, args, kwargs)
            self.refuse_frozen_draws()
            _refuse_keeping(held)
        except Exception as error:
            # Where its inputs cannot be put into a graph, the call below fails, and the module around it stays whole.
            self._roll_back(before)
            self.module_stack, self.num_calls = stack, counts
            self._generators = _generators()
            self.opaque = {p: why for p, why in self.opaque.items() if not p.startswith(f"{path}.")}
            self.opaque[path] = first_line(error)
            result = super().call_module(m, forward, args, kwargs)
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        self._proxies = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _roll_back(self, size: int) -> None:
        """Takes the newest nodes out of the graph, down to a size."""
        newest = list(self.graph.nodes)[size:]
        for node in reversed(newest):
            self.graph.erase_node(node)
        for name in [n for n, proxy in self._proxies.items() if proxy.node in newest]:
            del self._proxies[name]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if node.op == "get_attr":
            return _HeldProxy(node, self, self._held[str(node.target)])
        return super().proxy(node)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, dict) and is_dataclass(a):  # as the outputs of transformers are
            kwargs = {f.name: self.create_arg(getattr(a, f.name)) for f in fields(a)}
            return self.create_node("call_function", type(a), (), kwargs)
        if isinstance(a, dict) and type(a) not in (dict, immutable_dict):  # an OrderedDict stays one
            return self.create_node("call_function", type(a), (self.create_arg(dict(a)),), {})
        if isinstance(a, Tensor) and a.is_meta and self._refuse_meta and not isinstance(a, nn.Parameter):
            raise RuntimeError("it computes with its weights out of sight of torch.fx, which would freeze the result")
        if isinstance(a, torch.device) and a.type == "meta" and self._refuse_meta:
            raise RuntimeError("it reads its weights' device out of sight of torch.fx, which would freeze it")
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if not torch.is_grad_enabled():
            raise RuntimeError("it turns gradients off inside its forward, which a graph does not record")
        if _surroundings() != self._surroundings:
            raise RuntimeError("it turns on autocast or checkpointing, which a graph does not record")
        return super().create_node(*args, **kwargs)

    def refuse_frozen_draws(self, drawn: bool = False) -> None:
        """Stops when random numbers were drawn: tracing computes nothing, so they would be constants of the graph."""
        if drawn or _generators() != self._generators:
            raise RuntimeError("it draws random numbers that do not depend on its input, which the graph would freeze")

    def _proxy_placeholder(
        self, name: str, concrete_args: Any, sig: inspect.Signature, fn_for_analysis: Callable[..., Any]
    ) -> Any:
        bare = name.lstrip("*")
        if bare in self._live:  # without its default: a required input may follow it
            return self.create_proxy("placeholder", bare, (), {})
        kind = sig.parameters[bare].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return ()
        if kind is inspect.Parameter.VAR_KEYWORD:
            return {}
        return sig.parameters[bare].default


class _HeldProxy(fx.Proxy):
    """A parameter or buffer in a graph; its shape is a fact about the network, not about its input."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, held: Tensor) -> None:
        super().__init__(node, tracer)
        self.shape, self.ndim, self.dim = held.shape, held.ndim, held.dim
        self.size, self.numel, self.nelement = held.size, held.numel, held.nelement


def _notice_training(model: nn.Module) -> list[nn.Module]:
    """Has a network write down, from now on, the modules whose ``training`` flag is read."""
    noticed: list[nn.Module] = []
    kinds: dict[type, type] = {}
    for module in model.modules():
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its own forward stays whole
        if kind not in kinds:
            kinds[kind] = _noticing(kind, noticed)
        module.__class__ = kinds[kind]
    return noticed


def _noticing(kind: type, noticed: list[nn.Module]) -> type:
    def read(self: nn.Module) -> bool:
        noticed.append(self)
        flag: bool = self.__dict__["training"]
        return flag

    def write(self: nn.Module, mode: bool) -> None:
        self.__dict__["training"] = mode

    def fill(body: dict[str, Any]) -> None:
        body.update(training=property(read, write), __module__=kind.__module__)

    return new_class(kind.__name__, (kind,), exec_body=fill)


_CALLING_WHOLE_FUNCTIONS = ("timm.layers.padding",)


def _whole_functions() -> tuple[Callable[..., Any], ...]:
    """Functions to record rather than enter; torchvision's are known to fx itself.

    Of timm, those that it says are not to be entered (drop_path and others), and the one that computes "same" padding
    from an image's size, by a comparison that a proxy cannot make.
    """
    layers = sys.modules.get("timm.layers")
    registered = [*layers.get_notrace_functions(), layers.get_same_padding] if layers is not None else []
    return tuple(f for f in registered if callable(f))


def _generators() -> tuple[object, ...]:
    """State of the generators that a forward may draw from, but for numpy's."""
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _numpy_state() -> tuple[object, ...]:
    state = np.random.get_state(legacy=False)["state"]
    return state["key"].tobytes(), state["pos"]


def _surroundings() -> tuple[object, ...]:
    """What a forward may turn on for a part of itself, and a graph would not."""
    return (
        *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")),
        torch._C._autograd._top_saved_tensors_default_hooks(False),
    )


def _refuse_keeping(before: Snapshot) -> None:
    if before.changed():
        raise RuntimeError("it keeps results in its attributes, which a graph would not")


@contextmanager
def _refusing_own_gradients() -> Iterator[None]:
    """Inside, a torch.autograd.Function takes no proxies: a graph would record its forward and not its backward."""
    kind = torch.autograd.Function
    own = vars(kind).get("apply")
    apply = inspect.getattr_static(kind, "apply")

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(a, fx.Proxy) for a in (*args, *kwargs.values())):
            raise RuntimeError(f"it calls {cls.__name__}, whose own gradient a graph does not record")
        return apply.__get__(None, cls)(*args, **kwargs)

    kind.apply = classmethod(refuse)
    try:
        yield
    finally:
        if own is None:
            del kind.apply
        else:
            kind.apply = own


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def _attribute(model: nn.Module, path: str) -> Any:
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name)
    return value
