"""``perturbify census``: is every convolution of every model reached?"""

from __future__ import annotations

from pathlib import Path

import click

from perturbify.cli.console import Console
from perturbify.cli.options import IMAGES, SEED, output_options, wide_option

LIBRARIES = (
    "timm",
    "torchvision",
    "diffusers",
    "monai",
    "pytorchcv",
    "segmentation_models_pytorch",
    "transformers",
    "ultralytics",
)


@click.command(short_help="Wrap all models of a library and count.")
@click.option(
    "--library",
    "libraries",
    type=click.Choice(LIBRARIES),
    multiple=True,
    default=("timm", "torchvision"),
    show_default=True,
    metavar="NAME",
    help=f"Library of the models; may be repeated: {', '.join(LIBRARIES)}.",
)
@click.option("--filter", "pattern", metavar="GLOB", default="*", help="Only models whose name matches.")
@click.option("--sample", "size", type=IMAGES, help="Only this many: the hard ones first, then at random.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the sample.")
@click.option("--workers", type=click.IntRange(1, 1024), default=2, show_default=True, help="Processes of one thread.")
@click.option(
    "--notes",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every row to this file as it is found, and resume from it when started again.",
)
@wide_option
@output_options
def census(
    libraries: tuple[str, ...],
    pattern: str,
    size: int | None,
    seed: int,
    workers: int,
    notes: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Wrap all models of a library, and compare each with an independent count of its convolutions.

    A model's calls are counted below autograd, at its default input. It is wrapped with random weights, at the smallest
    input with the same calls; outputs and buffers are compared bit for bit in both modes. Networks of libraries other
    than timm and torchvision are built small, from their configurations. Exits with 1 if a model is incomplete.

    \b
      perturbify census --library timm --filter 'resnet*'
      perturbify census --sample 50 --workers 4
    """
    from perturbify.census import model_names, sample, take
    from perturbify.census.pool import versions
    from perturbify.census.report import rows_table, summary_table, to_dict

    names = [n for one in dict.fromkeys(libraries) for n in model_names(one, pattern)]
    if not names:
        raise click.UsageError(f"No model of {' or '.join(libraries)} matches {pattern!r}.")
    if size is not None:
        names = sample(names, size, seed)
    console = Console(quiet=quiet, as_json=as_json)
    console.log(f"{len(names)} models, {workers} at a time")
    with console.counting() as show:
        rows = take(names, workers=workers, notes=notes, progress=show)
    tables = rows_table(rows, console.width), summary_table(rows, console.width)
    console.result("\n\n".join(tables), to_dict(rows, versions(names)))
    if any(row.status == "incomplete" for row in rows):
        click.get_current_context().exit(1)
