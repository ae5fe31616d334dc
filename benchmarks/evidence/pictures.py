"""θ over a run, site by site: absolute, and relative to the activation that it is added to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from perturbify.methods import theta_way

if TYPE_CHECKING:
    from benchmarks.evidence.page import Runs


def draw(runs: Sequence[Runs], path: Path) -> None:
    """Plots Learn2Perturb's θ, absolute and relative, averaged over seeds; and every run's worst case.

    Args:
        runs: Runs of a suite, including ``learn2perturb``.
        path: PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ours = next(r for r in runs if r.name == "learn2perturb")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    colours = plt.get_cmap("viridis")
    sites = list(ours.found[0]["epochs"][-1]["sites"])
    for number, site in enumerate(sites):
        colour = colours(number / max(1, len(sites) - 1))
        axes[0].plot(_mean(ours, "sites", site), color=colour, label=site)
        axes[1].plot(_mean(ours, "relative", site), color=colour)
    axes[0].plot(theta_way.full(), color="black", linestyle="--", label="regulariser alone")
    axes[0].set(title="θ, mean over a site", xlabel="epoch", ylim=(0, None))
    axes[1].set(title="noise over activation", xlabel="epoch", ylim=(0, None))
    axes[0].legend(fontsize=7)
    for r in runs:
        values = [100 * report.headline.accuracy for report in r.reports]
        axes[2].plot([r.name] * len(values), values, "o", alpha=0.7)
    axes[2].set(title="worst case of every image, %")
    axes[2].margins(x=0.2)
    axes[2].tick_params(axis="x", labelrotation=15)
    figure.savefig(path, dpi=110, metadata={"Software": "perturbify"})
    plt.close(figure)


def _mean(runs: Runs, key: str, site: str) -> list[float]:
    """One site's value after every epoch, over the seeds."""
    each = [[epoch[key][site] for epoch in found["epochs"]] for found in runs.found]
    return [fmean(v for v in values if v is not None) for values in zip(*each, strict=True)]
