"""``perturbify plot``: a run's losses, accuracies and θ over its epochs, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import reports
from perturbify.cli.console import Console
from perturbify.cli.options import output_options
from perturbify.escape import figure as fit
from perturbify.escape import terminal
from perturbify.text import counted

if TYPE_CHECKING:
    from perturbify.settings import Recipe

CLEAN, ATTACKED, THETA = "#1b5fbf", "#bf3b0b", "#222222"
KINDS = (".png", ".pdf", ".svg")
NAMED = 8
"""Sites that a legend can still name."""


@click.command(short_help="Draw a run's losses, accuracies and θ.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: RUN/training.png; .pdf or .svg as well.",
)
@click.option(
    "--force", is_flag=True, help="Replace the FILE of -o; the run's own training.png is drawn anew each time."
)
@output_options
def plot(run: Path, output: Path | None, force: bool, as_json: bool, quiet: bool) -> None:
    """Draw the losses, accuracies and θ of RUN over its epochs, as one picture.

    A run that still goes on, or was stopped, is drawn as far as it has come.

    \b
      perturbify plot runs/digits-cifar_resnet20
      perturbify plot runs/digits-cifar_resnet20 -o curves.pdf
    """
    from perturbify.errors import PerturbifyError, TrainingError
    from perturbify.files import check_output
    from perturbify.training.folder import RunFolder

    if output is not None and output.suffix not in KINDS:
        raise click.UsageError(f"{output} is no picture that can be drawn: end its name in {', '.join(KINDS)}.")
    folder = RunFolder(run)
    recipe, metrics = folder.read_recipe(), folder.read_metrics()
    if not metrics:
        raise TrainingError(f"The run in {run} has not finished its first epoch.", "Draw it once it has.")
    target = output or folder.picture
    # The run's own picture may be drawn anew as it goes on; a file elsewhere is the user's.
    check_output(target, force=force or output is None)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PerturbifyError("matplotlib is not installed.", "pip install 'perturbify[plot]'") from error
    figure = Figure(figsize=(16 if metrics[-1]["theta"] else 9, 3.9), layout="constrained")
    draw(figure, metrics, recipe)
    reports.keep_figure(figure, target, dpi=130)
    Console(quiet=quiet, as_json=as_json).result(
        f"{len(metrics)} of {counted(recipe.train.epochs, 'epoch')}: {terminal(target)}",
        {"picture": str(target), "epochs": len(metrics), "of": recipe.train.epochs},
    )


def draw(figure: Any, metrics: list[dict[str, Any]], recipe: Recipe) -> None:
    """Fills an empty matplotlib figure.

    Args:
        figure: The figure.
        metrics: The run's epochs, as in ``metrics.jsonl``.
        recipe: Its recipe.
    """
    from perturbify import methods

    noisy = metrics[-1]["theta"] is not None
    losses, accuracies, *rest = figure.subplots(1, 4 if noisy else 2)
    warmup = recipe.train.warmup_epochs if noisy and methods.get(recipe.method).alternates else 0
    epochs = [m["epoch"] + 1 for m in metrics]
    for axes, key, title, factor in (
        (losses, "loss", "Cross-entropy", 1),
        (accuracies, "accuracy", "Accuracy, %", 100),
    ):
        for who, name, colour in (("clean", "clean", CLEAN), ("adversarial", "under the attack of training", ATTACKED)):
            seen = [(e, m[f"{who}_{key}"]) for e, m in zip(epochs, metrics, strict=True)]
            seen = [(epoch, value) for epoch, value in seen if value is not None]
            if seen:
                axes.plot([e for e, _ in seen], [factor * v for _, v in seen], color=colour, label=name, **_dots(seen))
        if key == "accuracy":
            apart = [(m["epoch"] + 1, 100 * m["held_out"]["adversarial_accuracy"]) for m in metrics if "held_out" in m]
            if apart:
                axes.plot(
                    *zip(*apart, strict=True), color=ATTACKED, ls=":", marker="D", ms=4, label="the same, held out"
                )
        axes.set_title(f"{title} on training images", loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=8)
    accuracies.set_ylim(0, 100)
    losses.set_ylim(0, 1.05 * losses.dataLim.ymax)
    if noisy:
        what = "log σ" if recipe.perturb.scale == "posterior" else "θ"
        _draw_thetas(rest[0], epochs, metrics, "sites", f"Mean {what} at each site")
        whole = [m["theta"]["mean"] for m in metrics]
        rest[0].plot(epochs, whole, color=THETA, lw=2, ls="--", label="all entries", **_dots(epochs))
        _draw_thetas(rest[1], epochs, metrics, "relative", "Noise over what it is added to (deviations)")
        _name_sites(figure, rest, list(metrics[-1]["theta"]["sites"]))
    for axes in (losses, accuracies, *rest):
        if warmup:
            axes.axvspan(0.5, warmup + 0.5, color="#00000010", lw=0)
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.set_xlabel("epoch" + (" (shaded: warm-up, noise off)" if warmup else ""))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#00000018")
    figure.suptitle(fit(f"{recipe.name}: {recipe.model}, {recipe.method}", 200), x=0.005, ha="left", fontsize=11)


def _draw_thetas(axes: Any, epochs: list[int], metrics: list[dict[str, Any]], key: str, title: str) -> None:
    from matplotlib import colormaps

    sites = list(metrics[-1]["theta"][key])
    colours = colormaps["viridis"].resampled(max(2, len(sites)))
    for number, site in enumerate(sites):
        seen = [(e, m["theta"][key][site]) for e, m in zip(epochs, metrics, strict=True)]
        seen = [(epoch, value) for epoch, value in seen if value is not None]
        if seen:
            axes.plot(*zip(*seen, strict=True), color=colours(number), lw=1, label=fit(site, 80), **_dots(epochs))
    axes.set_title(title, loc="left", fontsize=10)


def _name_sites(figure: Any, panels: list[Any], sites: list[str]) -> None:
    """Says which colour is which site: one by one where they are few."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    if len(sites) <= NAMED:
        panels[0].legend(frameon=False, fontsize=8)
    else:
        colours = colormaps["viridis"].resampled(max(2, len(sites)))
        bar = figure.colorbar(ScalarMappable(cmap=colours), ax=panels, ticks=[0, 1], pad=0.02)
        bar.ax.set_yticklabels([fit(sites[0], 80), fit(sites[-1], 80)], fontsize=7)
        bar.set_label("site, in order of execution; dashed: all entries", fontsize=8)


def _dots(points: list[Any]) -> dict[str, Any]:
    """Markers where there are few points: one epoch alone would be no line."""
    return {"marker": "o", "ms": 3} if len(points) < 25 else {}
