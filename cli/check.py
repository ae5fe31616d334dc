"""``perturbify check``: how robust is a network, and can the figures be trusted?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import images as loading
from perturbify.cli import interrupts, models, normalization, reports, spelling
from perturbify.cli.console import Console
from perturbify.cli.options import attack_options, data_options, model_options, output_options, wide_option

if TYPE_CHECKING:
    from torch import nn

    from perturbify.checkpoint.header import Header
    from perturbify.checks import CheckPlan
    from perturbify.data import Data


@click.command(short_help="Measure how robust a network is.")
@click.argument("file", metavar="FILE|RUN|NAME")
@click.option("--data", "data_name", help="A dataset, .npz file, or image folder; default: what FILE was trained on.")
@data_options
@click.option("--from", "sources", multiple=True, metavar="FILE", help="Also transfer attacks from this checkpoint.")
@click.option("--against", metavar="FILE", help="Baseline checkpoint, attacked in the same way: is FILE more robust?")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Save report.json, report.md, report.html and the records there.",
)
@click.option("--resume", is_flag=True, help="Resume the check in FOLDER.")
@click.option("--embed", is_flag=True, help="Save the figures in FILE's metadata and its model card.")
@click.option("--force", is_flag=True, help="Replace the check in FOLDER.")
@click.option("--compile/--no-compile", default=None, help="Compile the attacks; default: only on a GPU.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@attack_options
@model_options
@normalization.normalization_options
@wide_option
@output_options
def check(
    file: str,
    data_name: str | None,
    data_root: str | None,
    image_size: int | None,
    class_order: str | None,
    download: bool,
    sources: tuple[str, ...],
    against: str | None,
    output: Path | None,
    resume: bool,
    embed: bool,
    force: bool,
    compile: bool | None,
    device: str,
    trust_factory: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure the accuracy of FILE on clean and attacked test images, and judge whether the figures can be trusted.

    FILE is a perturbify checkpoint, RUN the folder of a finished run, and NAME any model (with --weights), checked as
    it is. Gradients are tested first; then images are crafted, and scored on fresh draws of the noise. Exit status 0:
    the figures are established; 3: a criterion failed; 4: they could not be established.

    \b
      --preset quick      256 images; minutes for a small network on a CPU
      --preset standard   1,000 images and every attack
      --preset paper      all images, the paper's settings, 80 draws a step

    Under torchrun the processes divide the batches among themselves.

    \b
      perturbify check model.safetensors
      perturbify check resnet18 --weights mine.pth --data photos/
    """
    spelling.attacks(settings["attacks"])
    spelling.device(device)
    spelling.model(file)
    spelling.weights(settings["weights"])
    spelling.data(data_name)
    for other in (*sources, *filter(None, [against])):
        spelling.file(other)
    console = Console(quiet=quiet, as_json=as_json)
    console.log(f"reading: {file}")

    from perturbify import checkpoint, zoo
    from perturbify.checks import check as run_check
    from perturbify.errors import CheckError
    from perturbify.files import identity
    from perturbify.text import duration
    from perturbify.training.launch import choose_device

    if embed and not models.is_file(file):
        raise click.UsageError("--embed writes into a perturbify FILE, and none is given.")
    if (resume or force) and output is None:
        raise click.UsageError("--resume and --force apply to a folder: use them with -o FOLDER.")
    if output is not None:
        click.get_current_context().with_resource(reports.alone(output))
        reports.look(output, resume=resume, force=force)
    if os.path.isdir(file):  # noqa: PTH112 (any text)
        file = models.file_of(file)
    target = choose_device(device)
    how = {key: settings.pop(key) for key in (*models.BUILDING, *normalization.OPTIONS)}
    said_of_pixels = normalization.asked(how)
    preset = settings.pop("preset")
    given = {key: value for key, value in settings.items() if value is not None}
    where = {"root": data_root, "image_size": image_size, "class_order": class_order, "download": download}
    about: dict[str, Any] = {}
    read = layer = None
    with console.aside():
        if models.is_file(file):
            file = models.file_of(file)
            if embed and console.first:
                click.get_current_context().with_resource(_to_be_changed(Path(file)))
            normalization.refuse(how, file)
            if any(how.values()):
                raise click.UsageError("A FILE has its own weights and arguments; leave out these options.")
            read = identity(Path(file))
            header = checkpoint.read_header(file)
            model = models.load(console, file, trust_factory=trust_factory)
            data = _data_for_file(console, file, header, data_name, where)
            about = header.provenance()
            given = models.threat_model(header, given)
        else:
            zoo.resolve(file)  # a mistyped path is reported before anything else
            if data_name is None:
                raise click.UsageError("Name the images: --data NAME, a .npz file, or an image folder.")
            model, data = _named(console, file, data_name, where, how)
            settled = normalization.settle(console, model, data, said_of_pixels)
            layer, about = settled.layer, {"normalisation": str(settled)}
        named = dict.fromkeys(n for n in (*sources, against) if n)
        others = {n: models.load(console, n, trust_factory=trust_factory).to(target) for n in named}
    # By their files' names, if those differ.
    called = dict(zip(others, (Path(n).name for n in others), strict=True))
    if len(set(called.values())) < len(called):
        called = {n: n for n in others}
    if target.type == "cuda":
        given.setdefault("at_once", 8)
    plan = _plan(preset, given)
    if output is not None:
        reports.prepare(output, resume=resume, force=force)
    same = "the same command resumes" if resume else "the same command with --resume resumes"
    said = interrupts.NOTHING_LOST if output is None else f"Finished batches are saved in {output}: {same}."
    with interrupts.safe(said), console.checking() as show:
        report = run_check(
            model.to(target),
            data,
            plan,
            name=models.called(file) if models.is_file(file) else file,
            about=about,
            normalize=layer,
            sources={called[n]: others[n] for n in sources},
            against=(called[against], others[against]) if against else None,
            folder=output,
            compile=target.type == "cuda" if compile is None else compile,
            on_start=lambda e: console.log(
                f"checking: {len(e.costs)} batches, about {duration(e.seconds)} on this machine"
            ),
            on_progress=show,
        )
    with interrupts.safe(said):
        try:
            if output is not None and console.first:
                reports.write(report, output)
            if embed and console.first:
                if identity(Path(file)) != read:
                    raise CheckError(f"{file} was changed during the check: the figures are not saved in it.")
                reports.embed(report, Path(file))
        finally:  # the result is printed even if it could not be saved
            console.result(reports.text(report, console.width), report.to_dict())
    if report.status and console.first:  # torchrun would kill the first process while it writes
        click.get_current_context().exit(report.status)


@contextmanager
def _to_be_changed(file: Path) -> Iterator[None]:
    """Makes sure, before any long work, that a checkpoint can be written, and that no run is writing to it.

    Raises:
        PerturbifyError: It cannot, or one is.
    """
    from perturbify.files import check_output
    from perturbify.training.folder import RunFolder

    check_output(file, force=True)
    run = RunFolder(file.parent)
    with run.busy() if run.is_run else nullcontext():
        yield


def _plan(preset: str, given: dict[str, Any]) -> CheckPlan:
    """A preset with changed settings; its name says so if any result may change."""
    from dataclasses import replace

    from perturbify.checks import PRESETS
    from perturbify.checks.cases import check_known

    try:
        check_known(given.get("attacks", ()))
    except ValueError as error:
        message = str(error)
        raise click.UsageError(f"{message[:1].upper()}{message[1:]}.") from None
    plan = replace(PRESETS[preset], **given)
    same = replace(plan, at_once=PRESETS[preset].at_once) == PRESETS[preset]  # affects speed only
    return plan if same else replace(plan, preset=f"{preset}, changed")


def _data_for_file(console: Console, file: str, header: Header, name: str | None, where: dict[str, Any]) -> Data:
    """The images for a checkpoint, in the size that it was made for."""
    from perturbify import recipe
    from perturbify.errors import DataError
    from perturbify.training.folder import RunFolder

    if name is None:
        if header.recipe is None:
            raise DataError(f"{file} has not been trained, so it names no data.", "Name the images: --data NAME.")
        run = RunFolder(Path(file).parent)  # which says where its images are; the checkpoint does not
        of_run = run.is_run and run.model == Path(file)
        settings = (run.kept_recipe() if of_run else recipe.of_run(header.recipe, "checkpoint")).data
        name = settings.name
        where = where | {key: where[key] or getattr(settings, key) for key in ("root", "image_size", "class_order")}
        if name.startswith(("npz:", "npy:", "folder:", "manifest:")):
            raise DataError(f"{file} was trained on {name}, but does not say where that is.", "Name it with --data.")
    images = loading.load(console, name, channels=loading.channels_of(header), side=header.image_size(), **where)
    if header.classes is not None and len(header.classes) != len(images.classes):
        raise DataError(
            f"{file} has {len(header.classes)} classes, but {images.name} has {len(images.classes)}.",
            "Check it on the data it was made for.",
        )
    loading.check_order(models.called(file), header, images)
    if where["image_size"] is None:
        models.check_size(models.called(file), header, images)
    return images


def _named(
    console: Console,
    name: str,
    data_name: str,
    where: dict[str, Any],
    how: dict[str, Any],
) -> tuple[nn.Module, Data]:
    channels, side = loading.taken_by(name, how["model_args"])
    images = loading.load(console, data_name, channels=channels, side=side, **where)
    return models.create(console, name, num_classes=len(images.classes), **how), images
