"""θ over a run, site by site: absolute, and relative to the activation that it is added to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from perturbify.cli import figures
from perturbify.methods import theta_way

if TYPE_CHECKING:
    from benchmarks.evidence.page import Runs


def draw(runs: Sequence[Runs], path: Path) -> None:
    """Plots Learn2Perturb's θ, absolute and relative, averaged over seeds; and every run's worst case.

    Args:
        runs: Runs of a suite, including ``learn2perturb``.
        path: PNG file.
    """
    ours = next(r for r in runs if r.name == "learn2perturb")
    figure = figures.canvas(11, 4.6)
    theta, relative, worst = figure.subplots(1, 3)
    sites = list(ours.found[0]["epochs"][-1]["sites"])
    for number, site in enumerate(sites):
        for axes, key in ((theta, "sites"), (relative, "relative")):
            values = _mean(ours, key, site)
            look = figures.style(number) | {"ms": 4.5, "lw": 1.3, "markevery": (4 * number, 45)}
            axes.plot(values, label=site if axes is theta else None, **look)
    theta.plot(theta_way.full(), color="#444444", lw=2, ls="-.", label="regulariser alone")
    for axes, title in ((theta, "θ, mean over a site"), (relative, "Noise over activation")):
        figures.tidy(axes, title, "epoch")
        axes.set_ylim(0, None)
    for number, r in enumerate(runs):
        values = sorted(100 * report.headline.accuracy for report in r.reports)
        places = [number + 0.22 * (i - (len(values) - 1) / 2) for i in range(len(values))]
        worst.plot(places, values, color="#444444", marker=figures.MARKERS[number], ls="", ms=6)
    figures.tidy(worst, "Worst case, %, a mark a run", "")
    worst.set_xticks(range(len(runs)), [r.name for r in runs], rotation=20, ha="right", fontsize=figures.SMALL)
    worst.margins(x=0.15)
    handles, names = theta.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower left", ncols=4, frameon=False, fontsize=figures.SMALL, handlelength=3.2
    )
    figure.savefig(path, dpi=130, metadata={"Software": "perturbify"})


def _mean(runs: Runs, key: str, site: str) -> list[float]:
    """One site's value after every epoch, over the seeds."""
    each = [[epoch[key][site] for epoch in found["epochs"]] for found in runs.found]
    return [fmean(v for v in values if v is not None) for values in zip(*each, strict=True)]
