"""A comparison as CSV (RFC 4180), for whoever draws or counts on."""

from __future__ import annotations

import csv
import io

from perturbify.checks.cases import ITSELF
from perturbify.checks.comparison import Comparison, Entry, Group
from perturbify.checks.results import Figure, Result
from perturbify.checks.runs import WORST
from perturbify.escape import terminal

HEAD = (
    *("network", "group", "seed", "method", "attack", "id", "norm", "epsilon", "noise", "n", "draws"),
    *("accuracy", "low", "high"),
)


def to_csv(comparison: Comparison) -> str:
    """Renders a comparison as CSV: a row for each network, attack and ε, and one for its worst case.

    Args:
        comparison: Any comparison.

    Returns:
        Lines that end with CR LF, the first one with the names of the columns. Accuracies and intervals are shares in
        [0, 1], ε is in pixels of [0, 1]; what there is not is empty. Foreign names are fit for a terminal.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEAD)
    for group in comparison.groups:
        for entry in group.entries:
            writer.writerows(_rows(comparison, group, entry))
    return text.getvalue()


def _rows(comparison: Comparison, group: Group, entry: Entry) -> list[list[object]]:
    report, worst = entry.report, entry.report.headline.worst
    who = [terminal(entry.name), terminal(group.name), entry.seed, entry.method]
    found: list[list[object]] = [
        [*who, terminal(r.attack), terminal(r.id), r.norm, _epsilon(r), r.noise, r.n, r.draws, *_rounded(r.figure)]
        for r in report.results
        if r.network == ITSELF
    ]
    n, draws = report.worst.shape
    epsilon = f"{comparison.plan.epsilon:.6g}"
    found.append([*who, WORST, "worst", "linf", epsilon, report.clean.noise, n, draws, *_rounded(worst)])
    return found


def _epsilon(result: Result) -> str | None:
    if result.claimed is None:  # without an attack
        return "0"
    return None if result.epsilon is None else f"{result.epsilon:.6g}"


def _rounded(figure: Figure) -> list[float]:
    return [round(value, 6) for value in (figure.value, *figure.interval)]
