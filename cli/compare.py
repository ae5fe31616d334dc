"""``perturbify compare``: several networks under the same attacks, side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import images as loading
from perturbify.cli import interrupts, models, networks, normalization, reports, spelling
from perturbify.cli.console import Console
from perturbify.cli.options import (
    IMAGES,
    SEED,
    STEPS,
    data_options,
    key_values,
    names,
    output_options,
    pixels,
    several_pixels,
    weights_key_option,
    wide_option,
)

if TYPE_CHECKING:
    from perturbify.checkpoint.header import Header
    from perturbify.checks import CheckPlan
    from perturbify.checks.comparison import Comparison

_RECIPE = "; default: what the first network's recipe says, else "


@click.command(short_help="Compare networks under the same attacks.")
@click.argument("arguments", nargs=-1, required=True, metavar="[NAME=]FILE|RUN|RUNS...")
@click.option("--data", "data_name", required=True, help="A dataset, .npz file, or image folder.")
@data_options
@click.option("--images", type=IMAGES, default=256, show_default=True, help="Maximum number of test images.")
@click.option(
    "--attacks",
    callback=names,
    metavar="LIST",
    help="Attacks by name, such as fgsm,pgd,eot; a wrong name lists them all. Leaves out the curve over ε unless "
    "--epsilons is given.",
)
@click.option("--epsilon", callback=pixels, help=f"l∞ radius, in pixels of [0, 1]{_RECIPE}8/255.")
@click.option(
    "--epsilons",
    callback=several_pixels,
    metavar="LIST",
    help="Other radii of the curve, such as 2/255,4/255; default: a quarter, half, 1.5 and 2 times ε.",
)
@click.option("--steps", type=STEPS, help=f"Steps of PGD{_RECIPE}7.")
@click.option(
    "--step-size", callback=pixels, help=f"PGD's step, in pixels of [0, 1]{_RECIPE}0.01 at ε = 8/255, in proportion."
)
@click.option("--eot-draws", type=STEPS, default=20, show_default=True, help="Draws averaged in each step of EOT-PGD.")
@click.option("--draws", type=STEPS, default=20, show_default=True, help="Fresh draws that score each image.")
@click.option("--batch-size", type=IMAGES, default=128, show_default=True, help="Images per batch.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of every random number.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Save comparison.json, comparison.md, comparison.png, and each network's report and records there.",
)
@click.option("--resume", is_flag=True, help="Resume the comparison in FOLDER.")
@click.option("--force", is_flag=True, help="Replace the comparison in FOLDER.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--trust-factory", is_flag=True, help="Run the factory that a FILE names, if you trust it.")
@click.option("--model", "model_name", help="Model of the bare weights; default: that of the FILEs.")
@click.option(
    "--model-arg",
    "model_args",
    multiple=True,
    metavar="KEY=VALUE",
    callback=key_values,
    help="Argument for that model's builder.",
)
@weights_key_option
@normalization.normalization_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "csv", "latex"]),
    help="Output format; default: text for a terminal.",
)
@wide_option
@output_options
def compare(
    arguments: tuple[str, ...],
    data_name: str,
    data_root: str | None,
    image_size: int | None,
    class_order: str | None,
    download: bool,
    output: Path | None,
    resume: bool,
    force: bool,
    device: str,
    trust_factory: bool,
    model_name: str | None,
    model_args: dict[str, Any],
    form: str | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Run the same attacks on the same images of several networks, and show the figures side by side.

    Each is a perturbify FILE, the folder of a RUN, or a folder of RUNS, one per seed (`finetune --seeds`), optionally
    with a NAME; or a FILE of bare weights, of --model or of the others' model. Runs that differ only in their seed
    share one line: mean ± sd over runs, with the interval over images. The attacks are FGSM, PGD, the margin attack and
    EOT-PGD with the noise on, PGD with it off, and FGSM and PGD at other ε; the time per answer is measured, too. The
    first network is the baseline of paired differences in the worst case. Exit status 3: one of them failed a criterion
    of `check`; only `check` says whether figures are established.

    \b
      perturbify compare plain=vanilla.safetensors noisy=runs/digits --data digits
      perturbify compare runs/a runs/b --data cifar10 -o comparison
    """
    spelling.attacks(settings["attacks"])
    spelling.device(device)
    spelling.data(data_name)
    given = networks.split(arguments)
    console = Console(quiet=quiet, as_json=as_json)
    console.log(f"reading: {', '.join(place for _, place in given)}")

    from dataclasses import replace

    from perturbify.checks.compare import compare as run_comparison
    from perturbify.checks.groups import check_same_data, trained
    from perturbify.text import duration
    from perturbify.training.launch import choose_device

    if (resume or force) and output is None:
        raise click.UsageError("--resume and --force apply to a folder: use them with -o FOLDER.")
    if as_json and form is not None:
        raise click.UsageError(f"--json and --format {form} are two formats: use one.")
    options = {key: settings.pop(key) for key in ("weights_key", *normalization.OPTIONS)}
    normalization.asked(options)
    found = networks.named(given, model_name, model_args, trust_factory=trust_factory)
    if found.bare and model_name is None:
        console.log(f"bare weights ({', '.join(found.bare)}) are taken as {found.model}, like the other FILEs")
    paths, headers = found.files, found.headers
    if not found.bare:
        normalization.refuse(options, next(iter(paths.values())).name)
        if options["weights_key"] is not None:
            raise click.UsageError("--weights-key is for bare weights; each FILE here has its own.")
    check_same_data(headers)
    runs = trained(headers, paths, found.families)
    first = next(iter(headers.values()), None)
    plan = _plan(first, {key: value for key, value in settings.items() if value is not None})
    target = choose_device(device)
    if target.type == "cuda":
        plan = replace(plan, at_once=8)
    with console.aside():
        sizes = (header.image_size() for header in headers.values())
        images = loading.load(
            console,
            data_name,
            channels=loading.taken_by(str(found.model), found.model_args)[0]
            if first is None
            else loading.channels_of(first),
            side=next((side for side in sizes if side is not None), None),
            root=data_root,
            image_size=image_size,
            class_order=class_order,
            download=download,
        )
        for name, header in headers.items():
            loading.check_order(name, header, images)
            if image_size is None:
                models.check_size(name, header, images)
        loaded = {
            name: (
                networks.load_bare(console, name, found, images, options)
                if name in found.bare
                else models.load(console, str(path), trust_factory=trust_factory)
            ).to(target)
            for name, path in paths.items()
        }
    if output is not None:
        click.get_current_context().with_resource(reports.alone(output))
        _prepare(output, list(paths), resume=resume, force=force)
    same = "the same command resumes" if resume else "the same command with --resume resumes"
    said = interrupts.NOTHING_LOST if output is None else f"Finished batches are saved in {output}: {same}."
    with interrupts.safe(said), console.checking() as show:
        comparison = run_comparison(
            loaded,
            images,
            plan,
            trained=runs,
            folder=output,
            on_start=lambda name, e: console.log(
                f"{name}, {1 + list(paths).index(name)} of {len(paths)}: {len(e.costs)} batches, about "
                f"{duration(e.seconds)} on this machine"
            ),
            on_progress=lambda name, p: show(replace(p, case=f"{name}: {p.case}")),
        )
    _print(console, comparison, form)
    if output is not None:
        _write(console, comparison, output)
    if comparison.status:
        click.get_current_context().exit(comparison.status)


def _plan(first: Header | None, given: dict[str, Any]) -> CheckPlan:
    """The plan: the defaults, the attack settings of the first FILE's recipe, and the options."""
    from dataclasses import replace

    from perturbify.checks.cases import check_known
    from perturbify.checks.compare import PLAN, check_curve

    attacks, epsilons = given.pop("attacks", None), given.pop("epsilons", None)
    plan = replace(PLAN, **(given if first is None else models.threat_model(first, given)))
    if attacks is not None:
        plan = replace(plan, attacks=attacks)
    if epsilons is not None:
        others = tuple(epsilon / plan.epsilon for epsilon in epsilons if abs(epsilon - plan.epsilon) > 1e-9)
        plan = replace(plan, attacks=tuple(dict.fromkeys((*plan.attacks, "sweep"))), sweep=others)
    try:
        if not plan.attacks:
            raise ValueError("--attacks names no attack")
        check_known([name for name in plan.attacks if isinstance(name, str)])
        check_curve(plan)
    except ValueError as error:
        message = str(error)
        raise click.UsageError(f"{message[:1].upper()}{message[1:]}.") from None
    return plan


def _print(console: Console, comparison: Comparison, form: str | None) -> None:
    from perturbify.checks.render import comparison as pages
    from perturbify.checks.render.comparison_csv import to_csv
    from perturbify.checks.render.comparison_latex import to_latex

    if form == "csv":
        click.echo(to_csv(comparison), nl=False)  # with RFC 4180's line ends, which the console would change
    elif form is None:
        console.result(pages.to_text(comparison, console.width), comparison.to_dict())
    else:
        text = pages.to_markdown(comparison) if form == "markdown" else to_latex(comparison)
        console.result(text.removesuffix("\n"), None, verbatim=True)


def _prepare(folder: Path, names: list[str], *, resume: bool, force: bool) -> None:
    """Makes sure, before any long work, that a comparison can be saved in a folder."""
    from perturbify.errors import OutputExists

    ours = [folder / f"comparison.{kind}" for kind in ("json", "md", "png")]
    there = [path for path in ours if os.path.lexists(path)]
    if there and not (resume or force):
        raise OutputExists(f"{folder} already holds a comparison.", "Resume it: --resume. Replace it: --force.")
    for name in names:
        reports.prepare(folder / name, resume=resume, force=force)
    if force and not resume:
        reports.refuse_foreign(there)
        for path in there:
            path.unlink()


def _write(console: Console, found: Comparison, folder: Path) -> None:
    """Writes comparison.json, comparison.md and, with matplotlib, comparison.png; and each network's report."""
    from perturbify.checks.render import comparison as pages
    from perturbify.cli import figures
    from perturbify.cli.curves import draw, size
    from perturbify.files import signed, write_own
    from perturbify.training.owned import is_ours

    for entry in found.entries:
        reports.write(entry.report, folder / entry.name)
    write_own(folder / "comparison.json", found.to_json(), is_ours)
    write_own(folder / "comparison.md", signed(pages.to_markdown(found)))
    if not found.lines:
        console.log("comparison.png is left out: it shows fgsm and pgd over ε, and neither was requested")
        return
    try:
        figure = figures.canvas(*size(found))
    except ImportError:
        console.log("comparison.png is left out: matplotlib is not installed (pip install 'perturbify[plot]')")
        return
    draw(figure, found)
    reports.keep_figure(figure, folder / "comparison.png", dpi=150)
