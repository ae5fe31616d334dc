"""``perturbify compare``: several networks under the same adversaries, side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import interrupts, models, reports
from perturbify.cli.console import Console
from perturbify.cli.options import IMAGES, SEED, STEPS, data_options, output_options, pixels

if TYPE_CHECKING:
    from perturbify.checks.compare import Comparison

_RECIPE = "; default: what the first network's recipe says, else "


@click.command()
@click.argument("networks", nargs=-1, required=True, metavar="[NAME=]FILE|RUN...")
@click.option("--data", "data_name", required=True, help="A dataset, .npz file, or image folder.")
@data_options
@click.option("--images", type=IMAGES, default=256, show_default=True, help="Test images at most.")
@click.option("--epsilon", callback=pixels, help=f"l∞ radius, in pixels of [0, 1]{_RECIPE}8/255.")
@click.option("--steps", type=STEPS, help=f"Of PGD{_RECIPE}7.")
@click.option(
    "--step-size", callback=pixels, help=f"Of PGD, in pixels of [0, 1]{_RECIPE}0.01 at ε = 8/255, in proportion."
)
@click.option("--eot-draws", type=STEPS, default=20, show_default=True, help="Draws that a step of EOT-PGD averages.")
@click.option("--draws", type=STEPS, default=20, show_default=True, help="Fresh draws that score each image.")
@click.option("--batch-size", type=IMAGES, default=128, show_default=True, help="Images at once.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of every random number.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep comparison.json, comparison.md, comparison.png, and each network's report and records there.",
)
@click.option("--resume", is_flag=True, help="Go on with what FOLDER holds.")
@click.option("--force", is_flag=True, help="Replace what FOLDER holds.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--trust-factory", is_flag=True, help="Run the factory that a FILE names; only if you trust it.")
@output_options
def compare(
    networks: tuple[str, ...],
    data_name: str,
    data_root: str | None,
    image_size: int | None,
    download: bool,
    output: Path | None,
    resume: bool,
    force: bool,
    device: str,
    trust_factory: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Run the same adversaries on the same images of several networks, and set their figures side by side.

    Each is a FILE of perturbify's or the folder of a RUN, called by its name or by the NAME before it. FGSM, PGD, the
    margin attack and EOT-PGD with the noise on; PGD with it off; FGSM and PGD at other ε; the time of an answer.
    Differences are to the first network, in the worst case of every image. Exit status 3 says that one of them failed a
    criterion of `check`; whether their figures are established is for `check` to say.
    """
    from dataclasses import replace

    from perturbify import checkpoint, data
    from perturbify.checks.compare import PLAN, check_names
    from perturbify.checks.compare import compare as run_comparison
    from perturbify.checks.render import comparison as pages
    from perturbify.text import duration
    from perturbify.training.launch import choose_device

    console = Console(quiet=quiet, as_json=as_json)
    if (resume or force) and output is None:
        raise click.UsageError("--resume and --force are about a folder: give it with -o FOLDER.")
    paths = _paths(networks)
    check_names(paths)
    headers = {name: checkpoint.read_header(path) for name, path in paths.items()}
    first = next(iter(headers.values()))
    given = {key: value for key, value in settings.items() if value is not None}
    plan = replace(PLAN, **models.threat_model(first, given))
    target = choose_device(device)
    if target.type == "cuda":
        plan = replace(plan, at_once=8)
    with console.aside():
        size = first.image_size() or data.DEFAULT_SIZE
        images = data.load(data_name, root=data_root, image_size=image_size, default_size=size, download=download)
        if image_size is None:
            for name, header in headers.items():
                models.check_size(name, header, images)
        loaded = {
            name: models.load(console, str(path), trust_factory=trust_factory).to(target)
            for name, path in paths.items()
        }
    if output is not None:
        click.get_current_context().with_resource(reports.alone(output))
        _prepare(output, list(paths), resume=resume, force=force)
    same = "the same command goes on" if resume else "the same command with --resume goes on"
    said = interrupts.NOTHING_LOST if output is None else f"What is done is kept in {output}: {same}."
    with interrupts.safe(said), console.checking() as show:
        found = run_comparison(
            loaded,
            images,
            plan,
            folder=output,
            on_start=lambda name, e: console.log(
                f"{name}, {1 + list(paths).index(name)} of {len(paths)}: {len(e.costs)} batches, about "
                f"{duration(e.seconds)} on this machine"
            ),
            on_progress=lambda name, p: show(replace(p, case=f"{name}: {p.case}")),
        )
    console.result(pages.to_text(found), found.to_dict())
    if output is not None:
        _write(console, found, output)
    if found.status:
        click.get_current_context().exit(found.status)


def _paths(arguments: tuple[str, ...]) -> dict[str, Path]:
    """The networks' files by their names, which differ."""
    given: list[tuple[str, Path]] = []
    for argument in arguments:
        name, _, place = argument.partition("=")
        said = bool(name and place) and not os.path.exists(argument)  # noqa: PTH110 (any text)
        given.append((name if said else "", Path(models.file_of(place if said else argument))))
    taken = [name for name, _ in given if name]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(f"Two networks are called {twice!r}.")
    found: dict[str, Path] = {}
    for name, path in given:
        own = models.called(str(path)).removesuffix(".safetensors")
        found[name or _distinct(own, [*found, *taken])] = path
    return found


def _distinct(name: str, taken: list[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _prepare(folder: Path, names: list[str], *, resume: bool, force: bool) -> None:
    """Makes sure, before any long work, that a comparison can be kept in a folder."""
    from perturbify.errors import OutputExists

    ours = [folder / f"comparison.{kind}" for kind in ("json", "md", "png")]
    there = [path for path in ours if os.path.lexists(path)]
    if there and not (resume or force):
        raise OutputExists(f"{folder} holds a comparison already.", "Go on with it: --resume. Replace it: --force.")
    for name in names:
        reports.prepare(folder / name, resume=resume, force=force)
    if force and not resume:
        reports.refuse_foreign(there)
        for path in there:
            path.unlink()


def _write(console: Console, found: Comparison, folder: Path) -> None:
    """Writes comparison.json, comparison.md and, with matplotlib, comparison.png; and each network's report."""
    from perturbify.checks.render import comparison as pages
    from perturbify.cli.curves import draw
    from perturbify.files import signed, write_own
    from perturbify.training.owned import is_ours

    for entry in found.entries:
        reports.write(entry.report, folder / entry.name)
    write_own(folder / "comparison.json", found.to_json(), is_ours)
    write_own(folder / "comparison.md", signed(pages.to_markdown(found)))
    try:
        from matplotlib.figure import Figure
    except ImportError:
        console.log("comparison.png is left out: matplotlib is not installed (pip install 'perturbify[plot]')")
        return
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    draw(figure, found)
    reports.keep_figure(figure, folder / "comparison.png", dpi=150)
