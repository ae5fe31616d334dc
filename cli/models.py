"""From what is named on the command line to a network."""

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
    """Whether what was named is a checkpoint, or a run's folder, rather than a model."""
    # os.path takes any text, such as one that is too long for a file's name.
    return name.endswith(".safetensors") or os.path.isfile(name) or os.path.isfile(_model_of_run(name))  # noqa: PTH113


def file_of(name: str) -> str:
    """The checkpoint that a FILE is, or that a run's folder holds.

    Raises:
        CheckpointError: It is a folder without one, or there is no such file.
    """
    from perturbify.errors import CheckpointError

    spelling.file(name)
    if not os.path.isdir(name):  # noqa: PTH112
        return name
    model = _model_of_run(name)
    if not model.is_file():
        raise CheckpointError(
            f"The folder {name} holds no {model.name}.", "Give a FILE, or the folder of a finished run."
        )
    return str(model)


def called(file: str) -> str:
    """What reports call a checkpoint: its file's name, or for a run's model that of the run's folder."""
    path = Path(file).absolute()
    return path.parent.name or path.name if path == _model_of_run(str(path.parent)) else path.name


def _model_of_run(folder: str) -> Path:
    from perturbify.training.folder import RunFolder

    return RunFolder(Path(folder)).model


def check_size(name: str, header: Header, images: Data) -> None:
    """Makes sure that images have the size that a network was made for.

    Some networks take images of any size, and then their figures at another one than theirs mislead.

    Raises:
        CheckError: They have another size, or the network takes something else.
    """
    from perturbify.errors import CheckError
    from perturbify.text import times

    first = next(iter(header.inputs.values()))
    if "shape" not in first:
        raise CheckError(f"{name} takes other inputs than a batch of images, and a check needs those.")
    shape = tuple(first["shape"])
    if shape != images.input_size:
        side = header.image_size()
        raise CheckError(
            f"{name} was made for images of {times(shape)}, those of {images.name} are {times(images.input_size)}.",
            "Take images of its own size." if side is None else f"Fit them: --image-size {side}.",
        )


BUILDING = ("pretrained", "weights", "weights_key", "reset_head", "model_args")
"""Options that say how a named model is built."""


def create(console: Console, name: str, *, num_classes: int | None, **how: Any) -> nn.Module:
    """Builds a named model and says which one it is and what its weights are.

    Args:
        console: Where to say it.
        name: As for :func:`perturbify.zoo.create`.
        num_classes: For models of a library; a user's own factory gets its arguments from ``--model-arg`` alone.
        **how: ``pretrained``, ``weights``, ``weights_key``, ``reset_head``, ``model_args``.
    """
    from perturbify import zoo

    qualified = zoo.resolve(name)
    arguments = dict(how["model_args"])
    for key in ("pretrained", "weights", "weights_key", "reset_head"):
        if key in arguments:
            raise click.UsageError(f"--model-arg {key} is not for the builder: say --{key.replace('_', '-')}.")
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
    """The adversary that a checkpoint's recipe names for its check, where nothing else is given.

    With another ε, the recipe's step is scaled along.
    """
    from perturbify import recipe

    if header.recipe is None:
        return given
    settings = recipe.of_run(header.recipe, "checkpoint").check
    epsilon = given.get("epsilon", settings.epsilon)
    step_size = settings.step_size * (epsilon / settings.epsilon)
    return {"epsilon": epsilon, "step_size": step_size, "steps": settings.steps} | given
