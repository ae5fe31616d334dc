"""``perturbify plot``: a run's losses, accuracies and θ over its epochs, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import figures, reports
from perturbify.cli.console import Console
from perturbify.cli.options import output_options
from perturbify.escape import terminal
from perturbify.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbify.settings import Recipe

CLEAN, ATTACKED, THETA = "#1b5fbf", "#bf3b0b", "#222222"
KINDS = (".png", ".pdf", ".svg")
NAMED = 24
"""The most sites in the legend; of more, as many are named, evenly spaced."""


@click.command(short_help="Draw a run's losses, accuracies and θ.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: RUN/training.png; .pdf or .svg as well.",
)
@click.option("--force", is_flag=True, help="Replace the FILE of -o; the run's own training.png is always redrawn.")
@output_options
def plot(run: Path, output: Path | None, force: bool, as_json: bool, quiet: bool) -> None:
    """Draw the losses, accuracies and θ of RUN over its epochs, as one picture.

    A run that is still going, or was stopped, is drawn up to its last epoch.

    \b
      perturbify plot runs/digits-cifar_resnet20
      perturbify plot runs/digits-cifar_resnet20 -o curves.pdf
    """
    from perturbify.errors import PerturbifyError, TrainingError
    from perturbify.files import check_output
    from perturbify.training.folder import RunFolder

    if output is not None and output.suffix not in KINDS:
        raise click.UsageError(f"{output} has an unknown format: end its name in {', '.join(KINDS)}.")
    folder = RunFolder(run)
    recipe, metrics = folder.read_recipe(), folder.read_metrics()
    if not metrics:
        raise TrainingError(f"The run in {run} has not finished its first epoch.", "Draw it once it has.")
    target = output or folder.picture
    # The run's own picture may be redrawn; a file elsewhere is the user's.
    check_output(target, force=force or output is None)
    try:
        figure = figures.canvas(8, 7.8 if metrics[-1]["theta"] else 4.2)
    except ImportError as error:
        raise PerturbifyError("matplotlib is not installed.", "pip install 'perturbify[plot]'") from error
    draw(figure, metrics, recipe)
    reports.keep_figure(figure, target, dpi=150)
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
    rows = figure.subplots(2 if noisy else 1, 2, squeeze=False)
    losses, accuracies = rows[0]
    panels = list(rows.flat)
    warmup = recipe.train.warmup_epochs if noisy and methods.get(recipe.method).alternates else 0
    epochs = [m["epoch"] + 1 for m in metrics]
    for axes, key, title, factor in (
        (losses, "loss", "Cross-entropy on training images", 1),
        (accuracies, "accuracy", "Accuracy, % on training images", 100),
    ):
        _draw_training(axes, metrics, key, factor)
        figures.tidy(axes, title, "")
    figures.plain(losses, [value for line in losses.get_lines() for value in line.get_ydata()])
    accuracies.set_ylim(0, 100)
    if noisy:
        what = "log σ" if recipe.perturb.scale == "posterior" else "θ"
        overall = [m["theta"]["mean"] for m in metrics]
        _draw_thetas(rows[1][0], metrics, "sites", f"Mean {what} at each site", overall)
        _draw_thetas(rows[1][1], metrics, "relative", "Noise over what it is added to")
        _name_sites(figure, rows[1][0], list(metrics[-1]["theta"]["sites"]))
    for axes in panels:
        if warmup:
            axes.axvspan(0.5, warmup + 0.5, color="#00000010", lw=0)
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.set_xlabel("epoch" + (" (shaded: warm-up, noise off)" if warmup else ""), fontsize=figures.NORMAL)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    handles, names = accuracies.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=figures.SMALL,
        title=figures.names([f"{recipe.name}: {recipe.model}, {recipe.method}"], 80)[0],
        title_fontsize=figures.LARGE,
        alignment="left",
    )


def _draw_training(axes: Any, metrics: list[dict[str, Any]], key: str, factor: float) -> None:
    """Curves for clean and attacked images and, for accuracy, attacked held-out images."""
    curves: list[tuple[str, list[tuple[int, float | None]], dict[str, Any]]] = [
        ("clean", [(m["epoch"] + 1, m[f"clean_{key}"]) for m in metrics], {"color": CLEAN, "marker": "o"}),
        (
            "under the training attack",
            [(m["epoch"] + 1, m[f"adversarial_{key}"]) for m in metrics],
            {"color": ATTACKED, "marker": "s", "ls": (0, (5, 1.5))},
        ),
    ]
    if key == "accuracy":
        apart = [(m["epoch"] + 1, m["held_out"]["adversarial_accuracy"]) for m in metrics if "held_out" in m]
        curves.append(("the same, held out", apart, {"color": ATTACKED, "marker": "D", "ls": ":"}))
    for name, points, look in curves:
        seen = [(epoch, factor * value) for epoch, value in points if value is not None]
        if seen:
            axes.plot(*zip(*seen, strict=True), label=name, ms=3.5, markevery=_every(seen), **look)


def _draw_thetas(
    axes: Any, metrics: list[dict[str, Any]], key: str, title: str, overall: list[float] | None = None
) -> None:
    """A curve for each site and, if given, one for all entries together."""
    sites = list(metrics[-1]["theta"][key])
    values = list(overall or [])
    for number, site in enumerate(sites):
        seen = [(m["epoch"] + 1, m["theta"][key][site]) for m in metrics]
        seen = [(epoch, value) for epoch, value in seen if value is not None]
        values += [value for _, value in seen]
        if seen:
            look = _site_style(number, len(sites))
            axes.plot(*zip(*seen, strict=True), lw=1.2, ms=4, markevery=_every(seen, number), **look)
    if overall is not None:
        epochs = [m["epoch"] + 1 for m in metrics]
        axes.plot(epochs, overall, color=THETA, lw=2.2, ls="-.", label="all entries", markevery=_every(epochs))
    figures.tidy(axes, title, "")
    figures.plain(axes, values)


def _site_style(number: int, sites: int) -> dict[str, Any]:
    """The colour shows a site's depth; mark and dash distinguish it from its neighbours."""
    from matplotlib import colormaps

    colour = colormaps["viridis"](0.92 * number / max(1, sites - 1))
    return figures.style(number) | {"color": colour, "ls": figures.DASHES[number % len(figures.DASHES)]}


def _name_sites(figure: Any, axes: Any, sites: list[str]) -> None:
    """Names the sites below the panels, as many as fit, with the first and the last."""
    from matplotlib.lines import Line2D

    shown = sorted({round(i * (len(sites) - 1) / max(1, NAMED - 1)) for i in range(NAMED)})
    shown = list(range(len(sites))) if len(sites) <= NAMED else shown
    handles = [Line2D([], [], lw=1.2, ms=5, **_site_style(number, len(sites))) for number in shown]
    handles.append(next(line for line in axes.get_lines() if line.get_label() == "all entries"))
    names = [*figures.names([sites[number] for number in shown], 24), "all entries"]
    figure.legend(
        handles,
        names,
        loc="outside lower left",
        ncols=3,
        frameon=False,
        fontsize=figures.SMALL,
        handlelength=3.2,
        columnspacing=1.2,
        title=f"site, in order of execution{f'; {len(shown)} of {len(sites)}' if len(shown) < len(sites) else ''}",
        title_fontsize=figures.SMALL,
        alignment="left",
    )


def _every(points: Sequence[Any], number: int = 0) -> tuple[int, int]:
    """Which points get a mark: up to a dozen, at different places on neighbouring curves."""
    step = max(1, len(points) // 8)
    return number % step if len(points) > step else 0, step
