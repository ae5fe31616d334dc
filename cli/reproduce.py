"""``perturbify reproduce``: reproduces a table or figure of the paper, next to the paper's figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify import escape, numbers
from perturbify.cli import figures, interrupts, reports, spelling
from perturbify.cli.console import Console
from perturbify.cli.options import IMAGES, SEED, names, output_options, seeds_from, several_seeds, wide_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbify.checks import Report
    from perturbify.reproduction import Job, Outcome, Reproduction
    from perturbify.training.folder import RunFolder

TABLES = ("table1", "table2", "table3", "table4", "fig2", "fig3", "eot", "transfer", "fewpixel")
"""The keys of :data:`perturbify.reproduction.paper.TABLES`, which is imported only when needed."""


def _budget(_ctx: click.Context, _option: click.Parameter, given: str) -> int | None:
    """Reads a number of epochs, or ``paper``."""
    if given == "paper":
        return None
    epochs = numbers.whole(given)
    if epochs == 0:
        raise click.BadParameter("0 epochs train nothing: use 1 or more, or 'paper' for the whole schedule")
    if epochs is None or not 1 <= epochs <= numbers.MOST_STEPS:
        raise click.BadParameter(f"{given!r} is neither 'paper' nor a number of epochs")
    return epochs


def _weights(_ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Reads ``NETWORK=FILE``."""
    pairs = [pair.partition("=") for pair in given]
    wrong = [pair for pair, (network, _, file) in zip(given, pairs, strict=True) if not (network and file)]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not of the form NETWORK=FILE")
    return {network: file for network, _, file in pairs}


@click.command(short_help="Reproduce a table or figure of the paper.")
@click.argument("table", type=click.Choice(TABLES))
@click.option(
    "--budget",
    "epochs",
    required=True,
    callback=_budget,
    metavar="EPOCHS|paper",
    help="Epochs to which each schedule is shortened, in proportion; paper: the whole schedule.",
)
@click.option("--equal-schedule", metavar="RECIPE", help="One recipe for all methods; default: each method's own.")
@click.option("--networks", callback=names, metavar="LIST", help="Only these networks, such as cifar_resnet20.")
@click.option("--methods", callback=names, metavar="LIST", help="Only these methods, such as vanilla,learn2perturb.")
@click.option("--data", help="A dataset, .npz file, or image folder; default: the recipes'.")
@click.option("--images", type=IMAGES, help="Test images of the checks; default: all for paper, else 1000.")
@click.option("--weights", multiple=True, callback=_weights, metavar="NETWORK=FILE", help="Weights to start from.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder for runs and table; default: reproductions/TABLE.",
)
@click.option("--seed", type=SEED, help="Seed of every random number; default: 0.")
@click.option(
    "--seeds",
    callback=several_seeds,
    metavar="NUMBER|LIST",
    help="Train each row with several seeds: 3 means 0,1,2; or a list such as 0,4,7.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--download", is_flag=True, help="Download the dataset if it is missing.")
@click.option("--force", is_flag=True, help="Replace another reproduction in FOLDER.")
@click.option("--dry-run", is_flag=True, help="List the jobs and how long they may take; write nothing.")
@wide_option
@output_options
def reproduce(
    table: str,
    output: Path | None,
    device: str,
    download: bool,
    force: bool,
    dry_run: bool,
    seed: int | None,
    seeds: int | tuple[int, ...] | None,
    as_json: bool,
    quiet: bool,
    **wishes: Any,
) -> None:
    """Train and check the rows of a table or figure of the paper, and print them next to the paper's figures.

    Each row is a run in FOLDER, or one run per seed. After a kill, the same command resumes; the table is rewritten
    after each run, as is the picture of fig2 and fig3.

    \b
      perturbify reproduce table1 --budget paper --data ~/data
      perturbify reproduce table2 --budget 3 --networks cifar_resnet20 --dry-run
      perturbify reproduce table3 --budget 7 --equal-schedule cifar10_short
      perturbify reproduce fig3 --budget 7 --seeds 3

    Exits with 1 if a row could not be run, and with 3 if a check failed. A table's attacks are too few to establish
    anything, so it never exits with 4.
    """
    _spelled(table, wishes, device)

    from perturbify import reproduction as rooms
    from perturbify.errors import PerturbifyError

    console = Console(quiet=quiet, as_json=as_json)
    if seed is not None and seeds is not None:
        raise click.UsageError("Give --seed for one training run of each row, or --seeds for several, not both.")
    wishes["seeds"] = seeds_from(1 if seeds is None else seeds, seed or 0)
    if wishes["images"] is None:
        wishes["images"] = None if wishes["epochs"] is None else 1000
    for key in ("networks", "methods"):
        wishes[key] = wishes[key] or ()
    try:
        asked = rooms.Reproduction(table, **wishes)
    except PerturbifyError as error:
        raise click.UsageError(str(error)) from error
    if dry_run:
        _estimate(console, asked, device, download)
    else:
        _run(console, asked, output or Path("reproductions") / table, device, download, force)


def _spelled(table: str, wishes: dict[str, Any], device: str) -> None:
    """Makes sure, before torch is imported, that what is named exists."""
    from perturbify import recipe as recipes
    from perturbify.errors import PerturbifyError
    from perturbify.reproduction import paper

    asked = paper.table(table)
    try:
        for key in ("networks", "methods"):
            paper.check_known(asked, key.removesuffix("s"), wishes[key] or (), getattr(asked, key))
    except PerturbifyError as error:
        raise click.UsageError(str(error)) from error
    if wishes["equal_schedule"] is not None:
        recipes.load(wishes["equal_schedule"])
    spelling.data(wishes["data"])
    for file in wishes["weights"].values():
        spelling.weights(file)
    spelling.device(device)


def _run(console: Console, asked: Reproduction, folder: Path, device: str, download: bool, force: bool) -> None:
    from perturbify.files import signed, write_own
    from perturbify.reproduction import Watcher
    from perturbify.reproduction import reproduce as run
    from perturbify.reproduction.folder import is_table
    from perturbify.reproduction.paper import table
    from perturbify.reproduction.report import to_dict, to_markdown, to_text

    def begins(job: Job, before: int, total: int) -> None:
        seed = f", seed {job.seed}" if len(asked.seeds) > 1 else ""
        console.log(f"job {before + 1} of {total}: {job.method} on {job.network}{seed}")

    def checked(report: Report, run: RunFolder) -> None:
        reports.embed(report, run.model)
        reports.write(report, run.path)

    def ends(outcomes: Sequence[Outcome]) -> None:
        write_own(folder / f"{asked.table}.md", signed(to_markdown(asked, outcomes)))
        write_own(folder / f"{asked.table}.json", _json(to_dict(asked, outcomes)), is_table)
        if table(asked.table).curve is not None:
            _draw(console, asked, outcomes, folder / f"{asked.table}.png")

    said = "Finished runs are kept: the same command resumes" + (", but without --force." if force else ".")
    with interrupts.safe(said), console.training() as steps, console.checking() as checks:
        watcher = Watcher(begins, steps, checks, checked, ends)
        outcomes = run(asked, folder, watcher, device=device, download=download, force=force)
    text = to_text(asked, outcomes, console.width)
    console.result(f"{text}\n\ntable: {escape.terminal(folder / asked.table)}.md", to_dict(asked, outcomes))
    if console.first and any(o.report is None for o in outcomes):
        click.get_current_context().exit(1)
    if console.first and any(o.report is not None and o.report.verdict == "failed" for o in outcomes):
        click.get_current_context().exit(3)


def _draw(console: Console, asked: Reproduction, outcomes: Sequence[Outcome], picture: Path) -> None:
    """Draws the curves so far, if matplotlib is installed and the picture's path is not a user's file."""
    from perturbify.cli.reproduced_curves import draw
    from perturbify.reproduction.rows import rows
    from perturbify.training.owned import is_ours

    finished = [row for row in rows(asked, outcomes) if row.reports]
    if not finished:
        return
    if os.path.lexists(picture) and not is_ours(picture):
        console.log(f"{picture.name} is left out: a file that is not perturbify's has that name")
        return
    try:
        figure = figures.canvas(9.5, 5.2)
    except ImportError:
        console.log(f"{picture.name} is left out: matplotlib is not installed (pip install 'perturbify[plot]')")
        return
    draw(figure, asked, finished)
    reports.keep_figure(figure, picture, dpi=150)


def _estimate(console: Console, asked: Reproduction, device: str, download: bool) -> None:
    from perturbify.errors import PerturbifyError
    from perturbify.ranks import Ranks
    from perturbify.reproduction.estimate import IMAGES, seconds
    from perturbify.reproduction.run import prepared
    from perturbify.text import duration
    from perturbify.text import table as aligned

    lines = [["network", "method", "seed", "recipe", "epochs", "training", "check", ""]]
    found: list[dict[str, Any]] = []
    known: dict[tuple[str, str], tuple[tuple[float, float] | None, str | None]] = {}  # all seeds take the same time
    with console.aside():
        for outcome in prepared(asked, Ranks(), download=download):
            job, why, times = outcome.job, outcome.why, None
            if job.recipe is not None and outcome.data is not None:
                row = (job.network, job.method)
                if row not in known:
                    console.log(f"timing: {job.method} on {job.network}")
                    try:
                        known[row] = seconds(asked, job, outcome.data, device=device), None
                    except PerturbifyError as error:
                        known[row] = None, str(error)
                times, why = known[row]
            recipe = ("–", "–") if job.recipe is None else (job.recipe.name, f"{job.recipe.train.epochs}")
            shown = ["–", "–"] if times is None else [duration(t) for t in times]
            lines.append(
                [job.network, job.method, f"{job.seed}", *recipe, *shown, "" if why is None else f"not possible: {why}"]
            )
            about = {"network": job.network, "method": job.method, "seed": job.seed}
            found.append(about | {"seconds": times, "why": why})
    timed = [sum(job["seconds"]) for job in found if job["seconds"] is not None]
    said = (
        f"about {duration(sum(timed))} for {len(timed)} of {len(found)} jobs on this machine, by four small steps of "
        f"each with {IMAGES} images; rather an overestimate"
    )
    told = aligned(lines, console.width, ("recipe", "epochs", "seed"))
    console.result(
        f"{told}\n\n{said if timed else 'none of them can be run'}",
        {"seconds": sum(timed), "jobs": found},
    )
    if len(timed) < len(found):
        click.get_current_context().exit(1)


def _json(values: dict[str, Any]) -> str:
    return escape.json(values) + "\n"
