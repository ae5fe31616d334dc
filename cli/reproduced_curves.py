"""The picture of a reproduced figure: accuracy against ε, a line for each method (the paper's figures 2 and 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbify import escape
from perturbify.cli.curves import COLOURS, MARKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbify.reproduction import Reproduction
    from perturbify.reproduction.rows import Measured, Row


def draw(figure: Any, reproduction: Reproduction, rows: Sequence[Row]) -> None:
    """Fills an empty matplotlib figure.

    Args:
        figure: The figure.
        reproduction: What it is of.
        rows: Those that have been measured.
    """
    from perturbify.reproduction.paper import NETWORKS, table

    paper = table(reproduction.table)
    axes = figure.subplots()
    ticks: set[float] = set()
    for number, row in enumerate(rows):
        points = _points(row)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        x = [255 * epsilon for epsilon, _ in points]
        low, high = ([100 * measured.interval[side] for _, measured in points] for side in (0, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
        axes.errorbar(
            x,
            [100 * measured.mean for _, measured in points],
            yerr=_bars(points),
            color=colour,
            marker=marker,
            capsize=3,
            label=row.method,
        )
        ticks.update(x)
        averaged = row.measured("EOT-PGD")
        if averaged is not None:
            own = 255 * row.outcomes[0].job.plan.epsilon
            axes.plot([own], [100 * averaged.mean], color=colour, marker=marker, mfc="white", zorder=4)
    axes.set_xticks(sorted(ticks), [f"{tick:.3g}" for tick in sorted(ticks)])
    axes.set_xlabel("ε in 1/255")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#00000018")
    axes.legend(frameon=False)
    names = " and ".join(dict.fromkeys(NETWORKS[row.network] for row in rows))
    data = " and ".join(dict.fromkeys(report.dataset for row in rows for report in row.reports))
    bars = "; bars: standard deviation over training runs" if len(reproduction.seeds) > 1 else ""
    axes.set_title(
        escape.figure(f"Accuracy of {names} under {paper.curve}, %: {rows[0].reports[0].n} test images of {data}")
        + "\n"
        + escape.figure(f"bands: 95% intervals over images{bars}; hollow: EOT-PGD"),
        loc="left",
        fontsize=9,
    )


def _bars(points: Sequence[tuple[float, Measured]]) -> list[float] | None:
    """The standard deviations over training runs; of a single run there is none."""
    deviations = [measured.sd for _, measured in points]
    return None if None in deviations else [100 * sd for sd in deviations if sd is not None]


def _points(row: Row) -> list[tuple[float, Measured]]:
    found = [(column.epsilon, row.measured(attack)) for attack, column in row.columns.items()]
    return [(epsilon, measured) for epsilon, measured in found if epsilon is not None and measured is not None]
