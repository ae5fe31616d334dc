"""Reports and comparisons as rows of plain values and, if pandas is installed, as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perturbify.checks.cases import ITSELF
from perturbify.errors import PerturbifyError

if TYPE_CHECKING:
    import pandas

    from perturbify.checks.comparison import Comparison, Entry
    from perturbify.checks.report import Report
    from perturbify.checks.results import Result

WORST = "worst"
"""Id of the row for the worst case of every image."""


def frame(rows: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """Rows with the same keys as a data frame.

    Raises:
        PerturbifyError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise PerturbifyError("A data frame needs pandas, which is not installed.", "pip install pandas") from error
    return pandas.DataFrame(rows)


def of_report(report: Report) -> list[dict[str, Any]]:
    """A row for each result, in the report's order."""
    return [
        {
            **{"network": report.name if r.network == ITSELF else r.network, "attack": r.attack, "id": r.id},
            **{"role": r.role, "crafted_on": r.on, "source": r.source, "norm": r.norm, "epsilon": _epsilon(r)},
            **{"noise": r.noise, "n": r.n, "attacked": r.attacked, "draws": r.draws, **_figure(r.accuracy, r.interval)},
            **{"majority": r.majority.value, "unperturbed": r.unperturbed, "claimed": r.claimed},
            **{"forward": r.forward, "gradient": r.gradient, "seconds": r.seconds},
        }
        for r in report.results
    ]


def of_comparison(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each network, attack and ε, and one for the network's worst case."""
    return [
        row
        for group in comparison.groups
        for entry in group.entries
        for row in _of_entry(entry, group.name, comparison.plan.epsilon)
    ]


def _of_entry(entry: Entry, group: str, epsilon: float) -> list[dict[str, Any]]:
    report, worst = entry.report, entry.report.headline.worst
    who = {"network": entry.name, "group": group, "seed": entry.seed, "method": entry.method}
    rows = [
        {
            **who,
            **{"attack": r.attack, "id": r.id, "norm": r.norm, "epsilon": _epsilon(r)},
            **{"noise": r.noise, "n": r.n, "draws": r.draws, **_figure(r.accuracy, r.interval)},
        }
        for r in report.results
        if r.network == ITSELF
    ]
    n, draws = report.worst.shape
    last = {"attack": "worst case", "id": WORST, "norm": "linf", "epsilon": epsilon, "noise": report.clean.noise}
    return [*rows, {**who, **last, "n": n, "draws": draws, **_figure(worst.value, worst.interval)}]


def _epsilon(result: Result) -> float | None:
    """ε in pixels of [0, 1]; 0 without an attack, None for an attack without a bound."""
    return 0.0 if result.claimed is None else result.epsilon


def _figure(value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {"accuracy": value, "low": interval[0], "high": interval[1]}
