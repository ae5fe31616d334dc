"""From a name on the command line to a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import spelling
from perturbify.cli.console import Console

if TYPE_CHECKING:
    from torch import nn

    from perturbify.checkpoint.header import Header
    from perturbify.data import Data


def is_file(name: str) -> bool:
    """Whether a name is a checkpoint or a run's folder, rather than a model."""
    # os.path takes any text, even one too long for a file's name.
    return name.endswith(".safetensors") or os.path.isfile(name) or os.path.isfile(_model_of_run(name))  # noqa: PTH113


def file_of(name: str) -> str:
    """The checkpoint that a FILE is, or that a run's folder holds.

    Raises:
        CheckpointError: It is a folder without a checkpoint, or there is no such file.
    """
    from perturbify.errors import CheckpointError

    spelling.file(name)
    if not os.path.isdir(name):  # noqa: PTH112
        return name
    model = _model_of_run(name)
    if not model.is_file():
        raise CheckpointError(
            f"The folder {name} has no {model.name}.", "Name a FILE, or the folder of a finished run."
        )
    return str(model)


def called(file: str) -> str:
    """A checkpoint's name in reports: its file's name, or the run's folder for a run's model."""
    path = Path(file).absolute()
    return path.parent.name or path.name if path == _model_of_run(str(path.parent)) else path.name


def _model_of_run(folder: str) -> Path:
    from perturbify.training.folder import RunFolder

    return RunFolder(Path(folder)).model


def check_size(name: str, header: Header, images: Data) -> None:
    """Makes sure that images have the size that a network was made for.

    Some networks take images of any size, but their figures at another size than their own mislead.

    Raises:
        CheckError: They have another size, or the network does not take images.
    """
    from perturbify.errors import CheckError
    from perturbify.text import times

    first = next(iter(header.inputs.values()))
    if "shape" not in first:
        raise CheckError(f"{name} does not take a batch of images, which a check needs.")
    shape = tuple(first["shape"])
    if shape != images.input_size:
        side = header.image_size()
        raise CheckError(
            f"{name} was made for images of {times(shape)}, but those of {images.name} are {times(images.input_size)}.",
            "Use images of its own size." if side is None else f"Fit them: --image-size {side}.",
        )


BUILDING = ("pretrained", "weights", "weights_key", "reset_head", "model_args")
"""Options for building a named model."""


def create(console: Console, name: str, *, num_classes: int | None, **how: Any) -> nn.Module:
    """Builds a named model, and prints which one it is and what its weights are.

    Args:
        console: Where to print it.
        name: As for :func:`perturbify.zoo.create`.
        num_classes: For library models; a user's own factory gets its arguments only from ``--model-arg``.
        **how: ``pretrained``, ``weights``, ``weights_key``, ``reset_head``, ``model_args``.
    """
    from perturbify import zoo

    qualified = zoo.resolve(name)
    arguments = dict(how["model_args"])
    for key in ("pretrained", "weights", "weights_key", "reset_head"):
        if key in arguments:
            raise click.UsageError(f"--model-arg {key} is not for the builder: use --{key.replace('_', '-')}.")
    if num_classes is not None and qualified.split(":")[0] in ("perturbify", "timm", "torchvision"):
        given = arguments.setdefault("num_classes", num_classes)
        if given != num_classes:
            raise click.UsageError(f"--model-arg num_classes={given}, but there are {num_classes} classes.")
    loading = {key: how[key] for key in ("pretrained", "weights", "weights_key", "reset_head")}
    model = zoo.create(qualified, **loading, **arguments)
    spec = zoo.describe(model)
    others = zoo.also_known_as(qualified)
    also = f" (there is also {', '.join(others)})" if others and name != qualified else ""
    console.log(f"model: {name} means {qualified}{also}" if name != qualified else f"model: {qualified}")
    console.log(f"weights: {spec.weights if spec else 'unknown'}")
    return model


def load(console: Console, path: str, *, trust_factory: bool) -> nn.Module:
    """Reads a checkpoint."""
    from perturbify import checkpoint
    from perturbify.methods import loading
    from perturbify.zoo.pixels import in_words

    header = checkpoint.read_header(path)
    model = loading.load(path, trust_factory=trust_factory)
    name = header.model["name"] if header.model else header.source_class
    console.log(f"model: {name} from {Path(path).name}, {len(header.sites)} noise sites")
    layer = header.normalization()
    console.log(
        f"Pixels go into {Path(path).name} as they are, in [0, 1]"
        if layer is None
        else f"Pixels are normalised inside {Path(path).name}: {in_words(layer)}"
    )
    return model


def threat_model(header: Header, given: dict[str, Any]) -> dict[str, Any]:
    """The attack settings in a checkpoint's recipe, for options that are not given.

    With another ε, the recipe's step size is scaled in proportion.
    """
    from perturbify import recipe

    if header.recipe is None:
        return given
    settings = recipe.of_run(header.recipe, "checkpoint").check
    epsilon = given.get("epsilon", settings.epsilon)
    step_size = settings.step_size * (epsilon / settings.epsilon)
    return {"epsilon": epsilon, "step_size": step_size, "steps": settings.steps} | given
