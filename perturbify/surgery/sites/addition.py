"""Noise on the sums of two feature maps, where residual blocks add, as in the release of Learn2Perturb's authors."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from perturbify.errors import TraceError
from perturbify.perturbation import spread
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.noisy import CALLS, add_step, source_class
from perturbify.surgery.observe import Observation, Run
from perturbify.surgery.plan import Site, Skipped, Spot, choose
from perturbify.surgery.sites.convolution import at_norm, insert_at_modules
from perturbify.surgery.sites.counting import count_calls
from perturbify.surgery.sites.inside import Inside, plain_attributes, trace_own

_FUNCTIONS = frozenset((operator.add, operator.iadd, torch.add))
_METHODS = frozenset(("add", "add_"))
_KIND = "addition"
_WHY = "an addition is an operation of the module's own forward, so noise is a node of its torch.fx graph"


@dataclass(frozen=True)
class Addition:
    """Each sum of two feature maps that depend on the module's input, and the first normalisation's output."""

    def find(
        self, network: nn.Module, seen: Mapping[str, Observation], config: PerturbConfig
    ) -> tuple[list[Site], list[Skipped], dict[str, float]]:
        """The normalisation behind the first convolution, and the additions."""
        spots: dict[str, list[Spot]] = {}
        for mode, one in seen.items():
            network.train(mode == "train")
            spots[mode] = [at_norm(c) for c in one.calls[:1]]
            numbers: dict[str, int] = {}
            for run in one.adding:
                spots[mode] += _sums_of(network, run, numbers)
        return choose(spots, config)

    def insert(self, network: nn.Module, sites: list[Site], seen: Mapping[str, Observation]) -> None:
        """Noise behind that normalisation, and inside the modules that add."""
        norms = [s for s in sites if s.kind != _KIND]
        insert_at_modules(network, norms, seen, {s.owner: 1 for s in norms})
        sums: dict[str, list[Site]] = {}
        for site in sites:
            if site.kind == _KIND:
                sums.setdefault(site.owner, []).append(site)
        counted = []
        for path, its in sums.items():
            owner = network.get_submodule(path)
            runs = {mode: sum(r.owner == path for r in one.adding) for mode, one in seen.items()}
            marks = frozenset(s.node for s in its)
            one_theta = any(s.calls > 1 for s in its)
            several = max(runs.values()) > 1 and not one_theta
            calls = 0 if one_theta else len(marks) * max(runs.values())
            numbers, names = frozenset(s.call for s in its), plain_attributes(owner)
            add_step(owner, Inside(path, numbers, calls, several, attributes=names, find=Sums(marks)))
            if several:
                counted.append(owner)
                vars(owner)[CALLS] = None
        count_calls(network, counted)


@dataclass(frozen=True)
class Sums:
    """Finds the additions of two feature maps in a module's graph: those with these indices among all its additions."""

    marks: frozenset[int]

    def __call__(self, graph: fx.Graph, training: bool) -> list[fx.Node]:
        """The nodes, in order."""
        return [n for i, n in enumerate(filter(_adds, graph.nodes)) if i in self.marks]


def _sums_of(network: nn.Module, run: Run, numbers: dict[str, int]) -> list[Spot]:
    module = network.get_submodule(run.owner)
    try:
        found = _run(module, run).found
    except TraceError as error:
        reason = f"torch.fx cannot trace its module's forward: {error.message}"
        number = numbers[run.owner] = numbers.get(run.owner, -1) + 1
        return [Spot(run.owner, _KIND, (), number, "graph", reason=reason)]
    spots = []
    for node, (shape, deviation) in found.items():
        number = numbers[run.owner] = numbers.get(run.owner, -1) + 1
        spots.append(Spot(run.owner, _KIND, shape, number, "graph", _WHY, node=node, spread=deviation))
    return spots


def _run(module: nn.Module, run: Run) -> _Sums:
    graph, constants = trace_own(module, source_class(module), run.args, run.kwargs)
    inputs = [v for v in pytree.tree_leaves((run.args, dict(run.kwargs))) if isinstance(v, Tensor)]
    sums = _Sums(module, graph)
    try:
        with torch.no_grad():
            sums.run(*inputs, *constants, enable_io_processing=False)
    except Exception as error:  # anything that the module's code raises on a graph that is not its own
        raise TraceError(f"its graph does not run ({error})") from error
    return sums


class _Sums(fx.Interpreter):
    """Runs a graph and records its sums of two feature maps that both depend on the inputs."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.found: dict[int, tuple[tuple[int, ...], float]] = {}
        self._numbers = {n: i for i, n in enumerate(filter(_adds, graph.nodes))}
        self._computed: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        given = n.op == "placeholder" and str(n.target).startswith("input")
        if given or any(i in self._computed for i in n.all_input_nodes):
            self._computed.add(n)
        if n in self._numbers and isinstance(value, Tensor) and value.dim() > 1 and self._both_maps(n):
            measured = float("nan") if value.is_meta else spread(value.float()).item()
            self.found[self._numbers[n]] = tuple(value.shape[1:]), measured
        return value

    def _both_maps(self, n: fx.Node) -> bool:
        if len(n.args) != 2 or not all(isinstance(a, fx.Node) and a in self._computed for a in n.args):
            return False
        left, right = (self.env[a] for a in n.args if isinstance(a, fx.Node))
        return isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape


def _adds(n: fx.Node) -> bool:
    by_function = n.op == "call_function" and n.target in _FUNCTIONS
    return by_function or (n.op == "call_method" and n.target in _METHODS)
