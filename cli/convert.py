"""``perturbify convert``: a model in, a noisy model in one file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perturbify import methods
from perturbify.cli import images as loading
from perturbify.cli import models, normalization, spelling
from perturbify.cli.console import Console
from perturbify.cli.options import (
    CLASSES,
    SEED,
    SIDE,
    Number,
    class_order,
    model_options,
    output_options,
    size_of_input,
    start,
    wide_option,
)
from perturbify.escape import terminal


@click.command(short_help="Add noise to a model; write one file.")
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: NAME.perturbed.safetensors here.")
@click.option("--dry-run", is_flag=True, help="Print the sites and write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--data", "data_name", help="Take input size, classes and normalisation from a dataset.")
@class_order
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of fresh weights.")
@click.option("--num-classes", type=CLASSES, help="Classes of the model's head.")
@click.option("--image-size", type=SIDE, help="With --data: fit images to a square of this many pixels a side.")
@click.option("--input-size", callback=size_of_input, metavar="CxHxW", help="Default: the model's own.")
@click.option("--method", default=methods.DEFAULT, show_default=True, help="The defence; sets the noise's defaults.")
@click.option(
    "--site",
    type=click.Choice(["output", "activation", "input", "norm", "addition", "weight", "parameter"]),
    help="Noise behind (output) or before convolutions, behind their normalisation, on additions, or on weights.",
)
@click.option("--grain", type=click.Choice(["element", "channel", "layer"]), help="What one entry of θ scales.")
@click.option("--draw-per", type=click.Choice(["sample", "batch"]), help="One draw of the noise per sample or batch.")
@click.option(
    "--theta-per", type=click.Choice(["call", "module"]), help="One θ per call, or per module for all its calls."
)
@click.option(
    "--theta-init",
    callback=start,
    metavar="NUMBER|RATIOx",
    help="Initial value of θ; 0.1x: a tenth of the activations' standard deviation, measured on --data.",
)
@click.option("--theta-min", type=Number(), help="Lower bound of θ.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these modules.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not these modules.")
@model_options
@normalization.normalization_options
@wide_option
@output_options
def convert(
    name: str,
    output: Path | None,
    dry_run: bool,
    force: bool,
    data_name: str | None,
    class_order: str | None,
    seed: int,
    num_classes: int | None,
    image_size: int | None,
    input_size: tuple[int, ...] | None,
    as_json: bool,
    quiet: bool,
    trust_factory: bool,
    method: str,
    **settings: Any,
) -> None:
    """Put a noise module behind every convolution of the model NAME and write it to one file.

    NAME is a timm or torchvision model (resnet18, timm:resnet18, torchvision:resnet18), one of the paper's CIFAR
    networks (cifar_resnet20), or your own package.module:factory. Weights are fresh without --pretrained or --weights.

    With --method, the noise is another defence's: on weights (pni, adv-bnn), before convolutions (rse), behind the
    first convolution (pixeldp); none and vanilla have no noise: the file is a baseline for `compare` and `check`.

    \b
      perturbify convert resnet18 --pretrained
      perturbify convert cifar_resnet20 --num-classes 10 --dry-run
      perturbify convert mynets:build --weights mine.pth --input-size 3x96x96
    """
    default = methods.get(method).perturb
    spelling.model(name)
    spelling.weights(settings["weights"])
    spelling.data(data_name)
    console = Console(quiet=quiet, as_json=as_json)
    console.log(f"building: {name}")

    from dataclasses import replace

    from perturbify import checkpoint, zoo
    from perturbify.errors import ModelError
    from perturbify.files import check_output
    from perturbify.methods.wrapping import plan, wrap
    from perturbify.training.seeds import fresh_weights

    if data_name is not None and num_classes is not None:
        raise click.UsageError("--data sets the number of classes; leave out --num-classes.")
    if models.is_file(name):
        raise click.UsageError(
            f"NAME must be a model's name, but {name!r} is a file. For bare weights, use --weights FILE; a perturbify "
            "FILE is already converted."
        )
    if trust_factory:
        raise click.UsageError("--trust-factory is for reading files; a factory that you name yourself runs anyway.")
    with console.aside():
        factory = zoo.is_factory(zoo.resolve(name))
    if factory and num_classes is not None:
        raise click.UsageError(
            f"--num-classes is for models of libraries; your own factory takes --model-arg num_classes={num_classes}."
        )
    if image_size is not None and (data_name is None or input_size is not None):
        raise click.UsageError("--image-size fits the images of --data to a square; --input-size needs no images.")
    target = output or Path(f"{name.rpartition(':')[2]}.perturbed.safetensors")
    if not dry_run:
        check_output(target, force=force)
    how = {key: settings.pop(key) for key in models.BUILDING}
    given = normalization.asked({key: settings.pop(key) for key in normalization.OPTIONS})
    config = default
    noise = {key: value for key, value in settings.items() if value not in (None, ())}
    if config is None and noise:
        raise click.UsageError(
            f"The method {method} has no noise, so --{next(iter(noise)).replace('_', '-')} does not apply."
        )
    if config is not None:
        if settings["theta_init"] is not None:
            config = replace(config, theta_first=None)  # one initial value for all sites
        try:
            config = replace(config, **noise)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    measured = config is not None and isinstance(config.theta_init, str)
    if measured and data_name is None:
        raise click.UsageError(f"--theta-init {settings['theta_init']} is measured on images: name them with --data.")
    data = None
    if data_name is not None:
        with console.aside():
            channels, side = loading.taken_by(name, how["model_args"])
            if input_size:
                channels, side = input_size[0], input_size[1]
            asked = side if input_size else image_size
            data = loading.load(
                console, data_name, channels=channels, side=side, image_size=asked, class_order=class_order
            )
    classes = num_classes if data is None else len(data.classes)
    with console.aside():
        with fresh_weights(seed):
            model = models.create(console, name, num_classes=classes, **how)
        size = input_size or (data.input_size if data else zoo.input_size(model))
        if size is None:
            raise ModelError(f"The input size of {name} is unknown.", "Set it: --input-size 3x224x224, or --data.")
        example = zoo.example_input(model, size)
        if data is not None and measured:
            example = next(data.train.batches(64))[:1]
        if dry_run:
            the_plan = plan(model, config, method=method, example_input=example)
            if config is not None and not the_plan.sites:
                wrap(model, config, method=method, example_input=example)  # which raises the reason
        else:
            settled = normalization.settle(console, model, data, given, channels=size[0])
            network = wrap(model, config, method=method, example_input=example, normalize=settled.layer)
            the_plan = network.surgery.plan
    if not dry_run:
        checkpoint.save(network, target, overwrite=force, classes=list(data.classes) if data else None)
        console.log(
            f"parity: with the noise off, outputs are the source's bit for bit, in {' and '.join(the_plan.modes)} mode"
        )
    written = None if dry_run else str(target)
    sites = the_plan.to_text(console.width)
    text = sites if dry_run else f"{sites}\nwritten: {terminal(target)}"
    console.result(text, the_plan.to_dict() | {"written": written})
