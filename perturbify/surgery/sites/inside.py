"""Noise inside a forward that does more after its convolution: nodes of that module's own torch.fx graph."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from perturbify.errors import PerturbifyError, TraceError
from perturbify.perturbation import child_name, site_name
from perturbify.surgery.graph import Tracer, insert, is_convolution
from perturbify.surgery.noisy import Proceed, Step, source_class
from perturbify.surgery.plan import Site
from perturbify.surgery.sites.counting import count_on, start_of
from perturbify.text import first_line

_serial = count()
_KEPT = 32
"""States whose graphs are kept; limited because an attribute may change with every step."""


def trace_own(
    module: nn.Module, forward: type[nn.Module], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[fx.Graph, list[Tensor]]:
    """The graph of a module's own code, with its children as leaves.

    Args:
        module: The module, in the mode to trace; it is left as it is.
        forward: The class whose forward that is.
        args: Its positional inputs.
        kwargs: Its keyword inputs.

    Returns:
        The graph; its placeholders are the tensors among the inputs, in order, and then the constants, which come
        second.

    Raises:
        TraceError: torch.fx cannot trace it.
    """
    tracer = Tracer(lambda m: m is not module, {forward.forward.__module__})
    kind = type(module)
    module.__class__ = forward
    try:
        graph = tracer.record(module, args, kwargs)
    except Exception as error:  # anything that a proxy may cause in a network's code
        reason = error.message if isinstance(error, PerturbifyError) else first_line(error)
        raise TraceError(reason) from error
    finally:
        module.__class__ = kind
    return graph, tracer.constants


def convolutions(graph: fx.Graph, training: bool) -> list[fx.Node]:
    """The nodes of a graph that convolve by a function or an operator, in whatever mode."""
    return [n for n in graph.nodes if is_convolution(n)]


@dataclass
class Inside(Step):
    """Noise inside a forward that does more after its convolution: nodes of the module's own torch.fx graph.

    A graph freezes what tracing saw. So one is made for each state of the module: its mode, its plain
    attributes, its arguments that are not tensors, dtype and device.

    Attributes:
        site: The module's path, for messages.
        numbers: The calls that have a θ, by number in the network's forward.
        calls: How many calls the network's forward makes; 0: one θ serves them all.
        several: Whether the module runs several times in a forward.
        before: Whether to perturb the convolutions' input.
        attributes: Names of the module's own numbers, strings and booleans, which a graph may freeze.
        find: Returns the relevant nodes (convolutions, additions) of the module's graph in train or eval mode.
    """

    order = 3

    site: str
    numbers: frozenset[int]
    calls: int
    several: bool = False
    before: bool = False
    attributes: tuple[str, ...] = ()
    find: Callable[[fx.Graph, bool], list[fx.Node]] = convolutions
    _programs: dict[Any, tuple[Callable[..., Any], int]] = field(default_factory=dict, repr=False, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Inside:
        return self  # programs are functions of the module, and serve all its copies

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_programs": {}}

    def around(
        self, module: nn.Module, name: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs the module's graph with its noise.

        Raises:
            TraceError: torch.fx cannot trace the module's forward in a new state.
            SurgeryError: There is no θ for a call.
        """
        start = start_of(module, self.site) if self.several else 0
        leaves, form = _flatten(args, kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, (Tensor, fx.Proxy))]
        plain = tuple(None if isinstance(leaf, (Tensor, fx.Proxy)) else leaf for leaf in leaves)
        about = [(t.dtype, t.device.type) for t in tensors if isinstance(t, Tensor)][:1]
        key = (module.training, start, form, plain, *about, tuple(getattr(module, n, None) for n in self.attributes))
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= _KEPT:
                self._programs.clear()
            program = self._programs[key] = self._program(module, start, args, kwargs)
        run, calls = program
        if self.several:
            count_on(module, start + calls)
        return run(module, *tensors)

    def _program(
        self, module: nn.Module, start: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], int]:
        try:
            graph, constants = trace_own(module, source_class(module), args, kwargs)
        except TraceError as error:
            raise TraceError(
                f"{self.site or 'The network'} ({type(module).__name__}) does more in its forward after a convolution, "
                f"so noise needs torch.fx, which cannot trace it: {error.message.rstrip('.')}.",
                "Make the convolution an nn.Conv module of its own, or leave it out with exclude=.",
            ) from error
        nodes = self.find(graph, module.training)
        numbers = range(start, start + len(nodes))
        if self.calls and numbers.stop > self.calls:
            raise TraceError(
                f"{site_name(self.site, self.calls)}: this module convolves more often than when the network was "
                "wrapped, and there is no θ for this call.",
                'Where the number of calls depends on the input, wrap with theta_per="module": one θ for all calls.',
            )
        places = [child_name(n if self.calls else 0) if n in self.numbers or not self.calls else None for n in numbers]
        insert(nodes, places, before=self.before)
        return _function(graph, constants), len(nodes)


def _function(graph: fx.Graph, constants: Sequence[Tensor]) -> Callable[..., Any]:
    """The code of a graph as a function of a module and its inputs; it does not hold the module."""
    code = graph.python_code(root_module="self")
    filename = f"<perturbify {next(_serial)}>"
    scope = dict(code.globals)
    exec(compile(code.src, filename, "exec"), scope)
    # Tracebacks then show the generated lines.
    linecache.cache[filename] = (len(code.src), None, code.src.splitlines(keepends=True), filename)
    run: Callable[..., Any] = scope["forward"]
    return (lambda self, *inputs: run(self, *inputs, *constants)) if constants else run


def plain_attributes(module: nn.Module) -> tuple[str, ...]:
    """Names of a module's own numbers, strings and booleans."""
    return tuple(k for k, v in vars(module).items() if type(v) in _PLAIN and not k.startswith("_") and k != "training")


def _flatten(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
    """All values in a call's arguments, and their structure."""
    leaves = [*args, *kwargs.values()]
    if not any(isinstance(leaf, (tuple, list, dict)) for leaf in leaves):
        return leaves, (len(args), *kwargs)
    return pytree.tree_flatten((args, kwargs))


_PLAIN = frozenset((bool, int, float, str, type(None)))


def refuse_hidden(network: nn.Module, sites: Collection[Site]) -> None:
    """Raises if a convolution is neither a module's own nor visible to torch.fx.

    Raises:
        TraceError: It is.
    """
    for site in sites:
        owner = network.get_submodule(site.owner)
        if site.way != "graph" or isinstance(owner, _ConvNd):
            continue
        scripted = next((n for n, m in owner.named_modules() if isinstance(m, torch.jit.ScriptModule)), None)
        if scripted is not None:
            raise TraceError(
                f"{f'{site.owner}.{scripted}'.strip('.')} is scripted, which hides its convolutions.",
                "Use the module it was scripted from, or leave it out with exclude=.",
            )
        listed = [v for k, v in vars(owner).items() if k not in ("_modules", "_parameters", "_buffers")]
        hidden = [m for v in listed for m in _held(v) if isinstance(m, nn.Module)]
        known = set(network.modules())
        stray = next((m for h in hidden for m in h.modules() if isinstance(m, _ConvNd) and m not in known), None)
        if stray is not None:
            raise TraceError(
                f"{site.owner or type(network).__name__} calls a {type(stray).__name__} that is not registered as its "
                "submodule.",
                "Keep it in an nn.ModuleList or nn.ModuleDict rather than a list or dict.",
            )


def _held(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]
