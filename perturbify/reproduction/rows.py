"""The rows of a table: a network and a method, over the training runs from all seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from perturbify.checks import Report
from perturbify.checks.runs import Pooled
from perturbify.checks.statistics import Right
from perturbify.reproduction.columns import Column, columns
from perturbify.reproduction.job import Reproduction
from perturbify.reproduction.paper import table
from perturbify.reproduction.run import Outcome
from perturbify.reproduction.table import Figures

WITHOUT_FIGURES = "cifar100"
"""The paper's dataset whose figures are in its supplement, which is not available here."""


@dataclass(frozen=True)
class Measured:
    """One figure of a row.

    Attributes:
        name: What the checks call the attack.
        runs: Number of training runs.
        mean: Mean of their accuracies, in [0, 1].
        sd: Their sample standard deviation (n - 1); None for a single run.
        interval: 95% interval over images, of the mean over these runs.
        n: Number of images.
        claimed: Share of images where the attack itself reports success, over all runs; None without an attack.
    """

    name: str
    runs: int
    mean: float
    sd: float | None
    interval: tuple[float, float]
    n: int
    claimed: float | None


@dataclass(frozen=True)
class Row:
    """A network and a method of a table.

    Attributes:
        network: The network's name in the zoo.
        method: The defence.
        outcomes: Those of its jobs, one for each seed.
        columns: The attacks, by the paper's names.
        paper: The paper's figures; empty if they are for other images.
    """

    network: str
    method: str
    outcomes: tuple[Outcome, ...]
    columns: dict[str, Column]
    paper: Figures

    @property
    def name(self) -> str:
        """The prefix of its runs' names."""
        return f"{self.network}-{self.method}"

    @property
    def reports(self) -> list[Report]:
        """The reports of the finished runs."""
        return [o.report for o in self.outcomes if o.report is not None]

    def measured(self, attack: str) -> Measured | None:
        """The accuracy under an attack; None if no run has it."""
        column = self.columns.get(attack)
        found = [r for r in (report.result(column.id) for report in self.reports) if r is not None] if column else []
        if not found:
            return None
        claims = [r.claimed for r in found if r.claimed is not None]
        rights = [r.right for r in found]
        return _measured(found[0].attack, rights, any(r.shared for r in found), fmean(claims) if claims else None)

    def worst(self) -> Measured | None:
        """The worst case of every image over all l∞ attacks within ε; None before the first check."""
        if not self.reports:
            return None
        shared = any(report.clean.shared for report in self.reports)
        return _measured("worst case", [report.worst for report in self.reports], shared, None)


def rows(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> list[Row]:
    """The outcomes, row by row in the paper's order."""
    paper = table(reproduction.table)
    found = []
    for network, method in reproduction.rows:
        own = tuple(o for o in outcomes if (o.job.network, o.job.method) == (network, method))
        figures = {} if any(without_figures(o) for o in own) else paper.figures[network, method]
        found.append(Row(network, method, own, columns(paper, own[0].job.plan), figures))
    return found


def without_figures(outcome: Outcome) -> bool:
    """Whether a job's images are of a dataset whose figures in the paper are not available."""
    return outcome.data is not None and outcome.data.name == WITHOUT_FIGURES


def _measured(name: str, rights: Sequence[Right], shared: bool, claimed: float | None) -> Measured:
    """The mean over runs; the images are the same in each, so their answers are paired."""
    pooled = Pooled.of(rights, shared=shared)
    runs = pooled.over_runs
    return Measured(name, runs.runs, runs.mean, runs.sd, pooled.over_images, len(rights[0]), claimed)
