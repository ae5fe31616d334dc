"""The picture of a reproduced figure: accuracy against ε, a line for each method (the paper's figures 2 and 3)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from perturbify import escape
from perturbify.cli import figures
from perturbify.cli.curves import ROOM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbify.reproduction import Reproduction
    from perturbify.reproduction.rows import Measured, Row


def draw(figure: Any, reproduction: Reproduction, rows: Sequence[Row]) -> None:
    """Fills an empty matplotlib figure.

    Args:
        figure: The figure.
        reproduction: The reproduction.
        rows: Those that have been measured.
    """
    from perturbify.reproduction.paper import NETWORKS, table

    paper = table(reproduction.table)
    axes = figure.subplots()
    ticks = sorted({255 * epsilon for row in rows for epsilon, _ in _points(row)})
    wide = ROOM * min((b - a for a, b in pairwise(ticks)), default=1)
    for number, row in enumerate(rows):
        points, look = _points(row), figures.style(number) | {"ms": 6, "lw": 1.2, "clip_on": False, "zorder": 3}
        aside = wide * ((number + 0.5) / len(rows) - 0.5)
        x = [255 * epsilon + aside for epsilon, _ in points]
        low, high = ([100 * measured.interval[side] for _, measured in points] for side in (0, 1))
        axes.vlines(x, low, high, color=look["color"], lw=3.5, alpha=0.25, zorder=2)
        means = [100 * measured.mean for _, measured in points]
        axes.errorbar(x, means, yerr=_bars(points), capsize=3, elinewidth=1, label=row.method, **look)
        averaged = row.measured("EOT-PGD")
        if averaged is not None:
            own = 255 * row.outcomes[0].job.plan.epsilon + aside + 0.4 * wide / len(rows)
            hollow = {"mfc": "white", "mec": look["color"], "mew": 1.4, "zorder": 4, "ls": ""}
            axes.plot([own], [100 * averaged.mean], **look | hollow)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_ylim(0, 100)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=figures.NORMAL,
        handlelength=3,
    )
    names = " and ".join(dict.fromkeys(NETWORKS[row.network] for row in rows))
    data = " and ".join(dict.fromkeys(report.dataset for row in rows for report in row.reports))
    bars = "; bars: standard deviation over training runs" if len(reproduction.seeds) > 1 else ""
    figures.tidy(axes, escape.figure(f"Accuracy under {paper.curve}, %: {names}"), "ε in 1/255")
    figure.suptitle(
        escape.figure(f"{rows[0].reports[0].n} test images of {data}; methods side by side at each ε")
        + "\n"
        + escape.figure(f"broad: 95% intervals over images{bars}; hollow: EOT-PGD"),
        x=0.008,
        ha="left",
        fontsize=figures.SMALL,
    )


def _bars(points: Sequence[tuple[float, Measured]]) -> list[float] | None:
    """The standard deviations over training runs; a single run has none."""
    deviations = [measured.sd for _, measured in points]
    return None if None in deviations else [100 * sd for sd in deviations if sd is not None]


def _points(row: Row) -> list[tuple[float, Measured]]:
    found = [(column.epsilon, row.measured(attack)) for attack, column in row.columns.items()]
    return [(epsilon, measured) for epsilon, measured in found if epsilon is not None and measured is not None]
