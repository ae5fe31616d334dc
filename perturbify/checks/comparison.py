"""The result of a comparison: several networks under the same attacks on the same images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from perturbify import escape
from perturbify.checks import frames, shown
from perturbify.checks.cases import ITSELF
from perturbify.checks.criteria import called
from perturbify.checks.latency import Latency
from perturbify.checks.plan import CheckPlan
from perturbify.checks.report import Report
from perturbify.checks.results import Result
from perturbify.checks.runs import Ahead, Pooled
from perturbify.display import fitted

if TYPE_CHECKING:
    import pandas

SCHEMA = 3

_DETAILS = {"eot-half", "twin-margin"}
"""Cases, by id, that only each network's own report shows."""


@dataclass(frozen=True)
class Entry:
    """One network of a comparison.

    Attributes:
        name: Its name.
        method: Its defence; None for a network that perturbify did not wrap.
        weights: Number of parameters without θ.
        theta: Number of entries of θ.
        report: All its figures.
        latency: How long it takes to answer.
        seed: Seed of the run that trained it; None if unknown.
    """

    name: str
    method: str | None
    weights: int
    theta: int
    report: Report
    latency: Latency
    seed: int | None = None

    def __repr__(self) -> str:
        return fitted(f"Entry: {self.name}, {self.method or 'no method'}, seed {self.seed}")

    @property
    def figures(self) -> dict[str, Result]:
        """The main figures by the ids of their cases: all but details and those at other ε."""
        own = (r for r in self.report.results if r.network == ITSELF and r.role != "sweep")
        return {r.id: r for r in own if r.id not in _DETAILS}

    def curve(self, line: str) -> list[tuple[float, Result]]:
        """Accuracy against ε, starting with the clean images.

        Args:
            line: ``"FGSM"`` or such as ``"PGD-7"``.

        Returns:
            Pairs of ε, in pixels of [0, 1], and the figure measured there, in ascending order.
        """
        points = {p.x: r for r in self.report.results for p in r.points if (p.figure, p.line) == ("epsilon", line)}
        return [(0.0, self.report.clean), *sorted(points.items(), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Group:
    """Networks that differ only in their training seed; a single network is a group, too.

    Attributes:
        name: The group's name.
        entries: The networks; at least one.
        ahead: The difference to the first group in the worst case over all attacks; None for the first.
    """

    name: str
    entries: tuple[Entry, ...]
    ahead: Ahead | None = None

    @property
    def method(self) -> str | None:
        """Their defence."""
        return self.entries[0].method

    @property
    def shared(self) -> bool:
        """Whether images share their draws in any of the networks."""
        return any(e.report.clean.shared for e in self.entries)

    def figure(self, id: str) -> Pooled | None:
        """A figure by the id of its case; None if any of the networks lacks it."""
        found = [e.figures[id] for e in self.entries if id in e.figures]
        return _pooled(found) if len(found) == len(self.entries) else None

    @cached_property
    def worst(self) -> Pooled:
        """The worst case of every image over all attacks."""
        return Pooled.of([e.report.worst for e in self.entries], shared=self.shared)

    def curve(self, line: str) -> list[tuple[float, Pooled]]:
        """Accuracy against ε, as :meth:`Entry.curve` returns it, where all the networks have it."""
        first, *others = (dict(e.curve(line)) for e in self.entries)
        return [(x, _pooled([r, *(o[x] for o in others)])) for x, r in first.items() if all(x in o for o in others)]


@dataclass(frozen=True)
class Comparison:
    """Several networks under the same attacks on the same images.

    Attributes:
        plan: The attacks.
        groups: The networks, grouped where they differ only in their seed; the first group is the baseline.
        machine: Versions, device and threads.
    """

    plan: CheckPlan
    groups: tuple[Group, ...]
    machine: dict[str, Any]

    def __repr__(self) -> str:
        return shown.comparison_lines(self)

    def _repr_html_(self) -> str:
        return shown.comparison_page(self)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All networks, group by group."""
        return tuple(e for group in self.groups for e in group.entries)

    @property
    def several(self) -> bool:
        """Whether any group has more than one run."""
        return len(self.entries) > len(self.groups)

    @property
    def lines(self) -> tuple[str, ...]:
        """The attacks with a curve over ε."""
        names = {"fgsm": "FGSM", "pgd": f"PGD-{self.plan.steps}"}
        return tuple(line for id, line in names.items() if id in self.plan.attacks)

    @property
    def heads(self) -> dict[str, str]:
        """The names of the main figures by the ids of their cases, those with the network's noise first."""
        found: dict[str, list[Result]] = {}
        switched_off: set[str] = set()
        for entry in self.entries:
            for id, result in entry.figures.items():
                found.setdefault(id, []).append(result)
                if result.noise != entry.report.clean.noise:
                    switched_off.add(id)
        return {id: self._head(id, found[id]) for id in sorted(found, key=lambda id: id in switched_off)}

    @property
    def status(self) -> int:
        """Exit status: 3 if a network failed a criterion, else 0; only `check` measures every criterion."""
        return 3 if any(e.report.failures for e in self.entries) else 0

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values; docs/compare.md describes them."""
        first = self.entries[0].report
        kept = ("epsilon", "steps", "eot_draws", "draws", "batch_size", "seed")
        values = {
            "schema": SCHEMA,
            "dataset": first.dataset,
            "classes": first.classes,
            "n": first.n,
            **{key: getattr(self.plan, key) for key in kept},
            "step_size": self.plan.step,
            "machine": self.machine,
            "groups": [self._group(g) for g in self.groups],
            "networks": [self._entry(e, g) for g in self.groups for e in g.entries],
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def to_json(self) -> str:
        """The comparison as indented JSON."""
        return escape.json(self.to_dict()) + "\n"

    def to_frame(self) -> pandas.DataFrame:
        """A pandas data frame: a row for each network, attack and ε, and one for each network's worst case.

        The columns are those of the CSV described in docs/compare.md.

        Raises:
            PerturbifyError: pandas is not installed.
        """
        return frames.frame(frames.of_comparison(self))

    def _head(self, id: str, results: Sequence[Result]) -> str:
        pgd = f"PGD-{self.plan.steps}"
        known = {"margin": "margin", "eot": f"EOT-{pgd}", "twin-pgd": f"{pgd}, noise off"}
        names = {called(result) for result in results}
        return known.get(id) or (names.pop() if len(names) == 1 else id)

    def _group(self, group: Group) -> dict[str, Any]:
        ahead = group.ahead
        return {
            "name": group.name,
            "networks": [e.name for e in group.entries],
            "seeds": [e.seed for e in group.entries],
            "method": group.method,
            "figures": {id: _values(group.figure(id)) for id in self.heads},
            "worst_case": _values(group.worst),
            "ahead": None if ahead is None else asdict(ahead) | {"verdict": ahead.verdict},
        }

    def _entry(self, entry: Entry, group: Group) -> dict[str, Any]:
        figures = entry.figures
        return {
            "name": entry.name,
            "group": group.name,
            "seed": entry.seed,
            "architecture": entry.report.architecture,
            "method": entry.method,
            "deterministic": entry.report.deterministic,
            "weights": entry.weights,
            "theta": entry.theta,
            "figures": {id: _figure(figures[id]) if id in figures else None for id in self.heads},
            "worst_case": asdict(entry.report.headline.worst),
            "curves": {
                line: [{"epsilon": epsilon} | _figure(r) for epsilon, r in entry.curve(line)] for line in self.lines
            },
            "latency": {"milliseconds": entry.latency.milliseconds} | asdict(entry.latency),
            "failures": entry.report.failures,
        }


def _pooled(results: Sequence[Result]) -> Pooled:
    return Pooled.of([r.right for r in results], shared=any(r.shared for r in results))


def _values(pooled: Pooled | None) -> dict[str, Any] | None:
    return None if pooled is None else asdict(pooled.over_runs) | {"over_images": pooled.over_images}


def _figure(result: Result) -> dict[str, Any]:
    return {
        "attack": result.attack,
        "noise": result.noise,
        "draws": result.draws,
        "accuracy": result.accuracy,
        "interval": list(result.interval),
    }
