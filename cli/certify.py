"""``perturbify certify``: within which l2 distance can nothing change a PixelDP network's answers?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perturbify import numbers
from perturbify.cli import certificates, models, normalization, spelling
from perturbify.cli import images as loading
from perturbify.cli.console import Console
from perturbify.cli.options import IMAGES, SEED, STEPS, Number, data_options, output_options

MOST_RADII = 100


def radii(_ctx: click.Context, _option: click.Parameter, given: str | None) -> list[float] | None:
    """Reads comma-separated l2 radii; returns them in ascending order."""
    if given is None:
        return None
    parts = given.split(",", MOST_RADII)
    values = {numbers.fraction(part) for part in parts[:MOST_RADII]}
    if len(parts) > MOST_RADII:
        raise click.BadParameter(f"{given!r} has more than {MOST_RADII} radii")
    if None in values:
        raise click.BadParameter(f"{given!r} is not a list of numbers such as 0,0.05,0.1")
    ordered = sorted(value for value in values if value is not None)
    if ordered[0] < 0:
        raise click.BadParameter(f"{ordered[0]} is not a radius: it is negative")
    return ordered


def _check_method(name: str) -> None:
    """Makes sure that the method certifies anything, before the network is built."""
    from perturbify import methods
    from perturbify.errors import MethodError

    if not methods.get(name).certifies:
        able = " or ".join(f"--method {other}" for other in methods.names() if methods.get(other).certifies)
        raise MethodError(
            f"Only noise calibrated for it certifies anything; this network's method is {name}.",
            f"Start from the plain network, with {able}.",
        )


class _Probability(Number):
    """A number between 0 and 1, exclusive."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads it."""
        number = super().convert(value, param, ctx)
        if not 0 < number < 1:
            self.fail(f"{value} is not between 0 and 1, exclusive.", param, ctx)
        return number


@click.command(short_help="Certify a PixelDP network's answers.")
@click.argument("file", metavar="FILE|RUN")
@click.option("--data", "data_name", required=True, help="A dataset, .npz file, or image folder.")
@data_options
@click.option("--images", type=IMAGES, help="Maximum number of test images, balanced over the classes; default: all.")
@click.option("--draws", type=STEPS, default=1000, show_default=True, help="Noisy forward passes that vote.")
@click.option(
    "--confidence",
    type=_Probability(),
    default=0.95,
    show_default=True,
    help="Probability that an image's certificate holds.",
)
@click.option("--radii", callback=radii, metavar="LIST", help="l2, in pixels of [0, 1]; default: six up to the limit.")
@click.option("--batch-size", type=IMAGES, default=128, show_default=True, help="Images per batch.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of every draw.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Save certificate.json, certificate.md and certificate.png there.",
)
@click.option("--force", is_flag=True, help="Replace what FOLDER holds.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--trust-factory", is_flag=True, help="Run the factory that FILE names, if you trust it.")
@normalization.normalization_options
@output_options
def certify(
    file: str,
    data_name: str,
    data_root: str | None,
    image_size: int | None,
    class_order: str | None,
    download: bool,
    images: int | None,
    draws: int,
    confidence: float,
    radii: list[float] | None,
    batch_size: int,
    seed: int,
    output: Path | None,
    force: bool,
    device: str,
    trust_factory: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Certify the answers of a PixelDP network on test images: FILE is its checkpoint, RUN a finished run.

    Noisy forward passes vote for a class, and exact bounds on the votes give each image a radius: no perturbation of
    smaller l2 norm, by any attack, changes its answer. The limit is the radius at which the theorem's ε is 1.

    \b
      perturbify certify runs/cifar10_pixeldp-cifar_resnet20 --data cifar10
      perturbify certify model.safetensors --data cifar10 --images 500 -o out
    """
    spelling.device(device)
    spelling.data(data_name)
    file = models.file_of(file)
    console = Console(quiet=quiet, as_json=as_json)
    console.log(f"reading: {file}")

    import time

    from perturbify import checkpoint
    from perturbify.certification import certify_split, verify
    from perturbify.checks.intake import count_classes
    from perturbify.surgery.noisy import Perturbed
    from perturbify.training.launch import choose_device

    if force and output is None:
        raise click.UsageError("--force applies to a folder: use it with -o FOLDER.")
    normalization.refuse(options, file)
    target = choose_device(device)
    with console.aside():
        network = models.load(console, file, trust_factory=trust_factory).to(target)
        assert isinstance(network, Perturbed)
        _check_method(network.surgery.method)
        mechanism = verify(network)
        header = checkpoint.read_header(file)
        source = loading.load(
            console,
            data_name,
            channels=loading.channels_of(header),
            side=header.image_size(),
            root=data_root,
            image_size=image_size,
            class_order=class_order,
            download=download,
        )
        loading.check_order(models.called(file), header, source)
        if image_size is None:
            models.check_size(models.called(file), header, source)
        chosen = certificates.chosen(source.test, images)
        split = source.test.subset(chosen)
        some, _ = next(split.batches(min(batch_size, 8)))
        count_classes(network, some.to(target), split, len(source.classes))
    if output is not None:
        certificates.prepare(output, force=force)
    started = time.perf_counter()
    with console.certifying() as show:
        certificate = certify_split(
            network, split, draws, confidence=confidence, batch_size=batch_size, seed=seed, on_progress=show
        )
    values = certificates.values(
        certificate,
        split.labels,
        mechanism.on(some),
        radii,
        about={"name": models.called(file), "method": network.surgery.method, "dataset": source.name},
        settings={"draws": draws, "confidence": confidence, "batch_size": batch_size, "seed": seed},
        indices=chosen,
        seconds=time.perf_counter() - started,
    )
    console.result(certificates.text(values), values)
    if output is not None:
        missing = {*certificates.FILES} - {*certificates.write(values, output)}
        if missing:
            console.log(f"{missing.pop()} is left out: matplotlib is not installed (pip install 'perturbify[plot]')")
