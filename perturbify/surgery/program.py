"""A graph as a plain Python function that copies and pickles with the network."""

from __future__ import annotations

import importlib
import linecache
from collections.abc import Mapping
from itertools import count
from types import ModuleType
from typing import Any

from torch import fx, nn

_serial = count()


class Program:
    """The code torch.fx generates for a graph, as a function of ``(network, *inputs)``.

    Unlike a ``GraphModule`` it holds no modules: submodules are reached through the network it is called with, so one
    network can hold several programs, and copies of the network share them.

    Args:
        source: Python source of one function ``forward(self, …)``.
        names: The globals of that source.
    """

    def __init__(self, source: str, names: Mapping[str, Any]) -> None:
        self.source = source
        self._names = dict(names)
        filename = f"<perturbify program {next(_serial)}>"
        scope = dict(names)
        exec(compile(source, filename, "exec"), scope)
        # Tracebacks then show the generated lines.
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        self._forward = scope["forward"]

    @classmethod
    def from_graph(cls, graph: fx.Graph) -> Program:
        """Generates the code of a graph."""
        code = graph.python_code(root_module="self")
        return cls(code.src, code.globals)

    def __call__(self, network: nn.Module, *inputs: Any) -> Any:
        """Runs the code with a network's modules on its inputs."""
        return self._forward(network, *inputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and (self.source, self._names) == (other.source, other._names)

    def __hash__(self) -> int:
        return hash(self.source)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Modules do not pickle; everything else among the globals does so by its importable name.
        modules = {k: v.__name__ for k, v in self._names.items() if isinstance(v, ModuleType)}
        rest = {k: v for k, v in self._names.items() if k not in modules}
        return _restore, (self.source, modules, rest)


def _restore(source: str, modules: Mapping[str, str], rest: Mapping[str, Any]) -> Program:
    return Program(source, {**rest, **{k: importlib.import_module(v) for k, v in modules.items()}})
