"""``perturbify convert``: a model in, a noisy model in one file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perturbify.cli import models
from perturbify.cli.console import Console
from perturbify.cli.options import image_size, model_options, output_options


@click.command()
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: NAME.perturbed.safetensors here.")
@click.option("--dry-run", is_flag=True, help="Print the sites and write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--data", "data_name", help="Fit input size, classes and normalisation to a dataset.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of fresh weights.")
@click.option("--num-classes", type=click.IntRange(1), help="Classes of the model's head.")
@click.option("--input-size", callback=image_size, metavar="CxHxW", help="Default: what the model says.")
@click.option("--grain", type=click.Choice(["element", "channel", "layer"]), default="element", show_default=True)
@click.option("--share", type=click.Choice(["sample", "batch"]), default="sample", show_default=True)
@click.option("--shared", type=click.Choice(["call", "module"]), default="call", show_default=True)
@click.option(
    "--backend",
    type=click.Choice(["auto", "hook"]),
    default="auto",
    show_default=True,
    help="hook: no graph; the model's own code runs, with a hook on each convolution.",
)
@click.option("--theta-init", type=float, default=0.25, show_default=True, help="What every θ starts from.")
@click.option("--theta-min", type=float, default=0.01, show_default=True, help="The floor of θ.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these modules.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not these modules.")
@model_options
@output_options
def convert(
    name: str,
    output: Path | None,
    dry_run: bool,
    force: bool,
    data_name: str | None,
    seed: int,
    num_classes: int | None,
    input_size: tuple[int, ...] | None,
    as_json: bool,
    quiet: bool,
    trust_factory: bool,
    **settings: Any,
) -> None:
    """Put a noise module behind every convolution of the model NAME and write it to one file.

    NAME is a timm or torchvision model (resnet18, timm:resnet18, torchvision:resnet18), one of the paper's CIFAR
    networks (cifar_resnet20), or your own package.module:factory. Weights are fresh unless --pretrained or --weights is
    given.
    """
    from perturbify import checkpoint, zoo
    from perturbify import data as datasets
    from perturbify.errors import ModelError
    from perturbify.files import check_output
    from perturbify.surgery.config import PerturbConfig
    from perturbify.surgery.wrap import plan, wrap
    from perturbify.training.prepare import normalization
    from perturbify.training.seeds import fresh_weights

    if data_name is not None and num_classes is not None:
        raise click.UsageError("--data says how many classes there are; leave --num-classes out.")
    if models.is_file(name):
        raise click.UsageError(
            f"NAME is a model's name, and {name!r} is a file. Bare weights are given with --weights FILE; a FILE of "
            "perturbify's has been converted already."
        )
    if trust_factory:
        raise click.UsageError("--trust-factory is for reading files; a factory that you name yourself is run anyway.")
    console = Console(quiet=quiet, as_json=as_json)
    target = output or Path(f"{name.rpartition(':')[2]}.perturbed.safetensors")
    if not dry_run:
        check_output(target, force=force)
    how = {key: settings.pop(key) for key in ("pretrained", "weights", "reset_head", "model_args")}
    try:
        config = PerturbConfig(**settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    data = None if data_name is None else datasets.load(data_name, image_size=input_size[1] if input_size else None)
    classes = num_classes if data is None else len(data.classes)
    with console.aside():
        with fresh_weights(seed):
            model = models.create(console, name, num_classes=classes, **how)
        size = input_size or (data.input_size if data else zoo.input_size(model))
        if size is None:
            raise ModelError(f"{name} does not say its input size.", "Give it: --input-size 3x224x224, or --data.")
        example = zoo.example_input(model, size)
        if dry_run:
            the_plan = plan(model, config, example_input=example)
        else:
            normalize = normalization(model, data) if data else zoo.normalization(model)
            network = wrap(model, config, example_input=example, normalize=normalize)
            the_plan = network.surgery.plan
    if not dry_run:
        checkpoint.save(network, target, overwrite=force, classes=list(data.classes) if data else None)
        console.log(
            f"parity: with the noise off, the source's outputs bit for bit, in {' and '.join(the_plan.modes)} mode"
        )
    written = None if dry_run else str(target)
    text = str(the_plan) if dry_run else f"{the_plan}\nwritten: {target}"
    console.result(text, the_plan.to_dict() | {"written": written})
