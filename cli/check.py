"""``perturbify check``: how robust is it, and is its noise alive?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import models
from perturbify.cli.console import Console, report_table
from perturbify.cli.options import attack_options, model_options, output_options

if TYPE_CHECKING:
    from torch import nn

    from perturbify.data import Data
    from perturbify.header import Header


@click.command()
@click.argument("file", metavar="FILE|NAME")
@click.option("--data", "data_name", help="A dataset, .npz file, or image folder; default: what FILE was trained on.")
@click.option("--data-root", type=click.Path(), help="Folder of a named dataset.")
@click.option("--image-size", type=click.IntRange(1), help="Fit images to a square of so many pixels a side.")
@click.option("--download", is_flag=True, help="Fetch the dataset if it is not here.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report there as JSON, too.")
@click.option("--embed", is_flag=True, help="Keep the figures in FILE's metadata.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@attack_options
@model_options
@output_options
def check(
    file: str,
    data_name: str | None,
    data_root: str | None,
    image_size: int | None,
    download: bool,
    output: Path | None,
    embed: bool,
    force: bool,
    device: str,
    trust_factory: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure the accuracy of FILE on clean and attacked test images, with the noise on and off.

    FILE is a checkpoint of perturbify's; the NAME of any model, with --weights, is checked as it is. First the noise
    is verified: it must be alive at every site. Exit status 3 says that a criterion failed.
    """
    from dataclasses import asdict

    from perturbify import checkpoint, recipe
    from perturbify.checks import CheckPlan
    from perturbify.checks import check as run_check
    from perturbify.files import check_output, write_text
    from perturbify.training.loop import choose_device

    console = Console(quiet=quiet, as_json=as_json)
    if embed and not models.is_file(file):
        raise click.UsageError("--embed writes into a FILE of perturbify's; there is none.")
    if output is not None:
        check_output(output, force=force)
    target = choose_device(device)
    how = {key: settings.pop(key) for key in ("pretrained", "weights", "reset_head", "model_args")}
    given = {key: value for key, value in settings.items() if value is not None}
    about: dict[str, Any] = {}
    with console.aside():
        if models.is_file(file):
            if any(how.values()):
                raise click.UsageError("A FILE brings its own weights and arguments; give it alone.")
            header = checkpoint.read_header(file)
            model = models.load(console, file, trust_factory=trust_factory)
            data = _data_for_file(file, header, data_name, data_root, image_size, download)
            about = header.provenance()
            if header.recipe is not None:
                given = asdict(recipe.from_toml(header.recipe, file).check) | given
        else:
            if data_name is None:
                raise click.UsageError("Say on which images: --data NAME, a .npz file, or an image folder.")
            model, data = _named(console, file, data_name, data_root, image_size, download, how)
    with console.checking() as show:
        report = run_check(
            model.to(target), data, CheckPlan(**given), subject=Path(file).name, about=about, on_batch=show
        )
    console.result(report_table(report), report.to_dict())
    if output is not None:
        write_text(output, report.to_json())
    if embed:
        checkpoint.annotate(file, check=report.summary())
    if not report.passed:
        click.get_current_context().exit(3)


def _data_for_file(
    file: str, header: Header, name: str | None, root: str | None, image_size: int | None, download: bool
) -> Data:
    """The images a checkpoint takes, in the size it was made for."""
    from perturbify import data, recipe
    from perturbify.errors import DataError

    if name is None:
        if header.recipe is None:
            raise DataError(f"{file} has not been trained, so it names no data.", "Say on which images: --data NAME.")
        settings = recipe.from_toml(header.recipe, "checkpoint").data
        name, root, image_size = settings.name, root or settings.root, image_size or settings.image_size
        if name.startswith(("npz:", "folder:")):
            raise DataError(f"{file} was trained on {name}, and does not keep where that lies.", "Give it with --data.")
    size = header.image_size() or data.DEFAULT_SIZE
    images = data.load(name, root=root, image_size=image_size, default_size=size, download=download)
    if header.classes is not None and len(header.classes) != len(images.classes):
        raise DataError(
            f"{file} tells {len(header.classes)} classes apart, {images.name} has {len(images.classes)}.",
            "Check it on the data it was made for.",
        )
    return images


def _named(
    console: Console,
    name: str,
    data_name: str,
    root: str | None,
    image_size: int | None,
    download: bool,
    how: dict[str, Any],
) -> tuple[nn.Module, Data]:
    from torch import nn

    from perturbify import data, zoo
    from perturbify.normalize import Normalize

    images = data.load(data_name, root=root, image_size=image_size, download=download)
    model = models.create(console, name, num_classes=len(images.classes), **how)
    return nn.Sequential(zoo.normalization(model) or Normalize(images.mean, images.std), model), images
