"""From what is named on the command line to a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli.console import Console

if TYPE_CHECKING:
    from torch import nn


def is_file(name: str) -> bool:
    """Whether what was named is a checkpoint rather than a model."""
    return name.endswith(".safetensors") or Path(name).is_file()


def create(console: Console, name: str, *, num_classes: int | None, **how: Any) -> nn.Module:
    """Builds a named model and says which one it is and what its weights are.

    Args:
        console: Where to say it.
        name: As for :func:`perturbify.zoo.create`.
        num_classes: For models of a library; a user's own factory gets its arguments from ``--model-arg`` alone.
        **how: ``pretrained``, ``weights``, ``reset_head``, ``model_args``.
    """
    from perturbify import zoo

    qualified = zoo.resolve(name)
    arguments = dict(how["model_args"])
    if num_classes is not None and qualified.split(":")[0] in ("perturbify", "timm", "torchvision"):
        given = arguments.setdefault("num_classes", num_classes)
        if given != num_classes:
            raise click.UsageError(f"--model-arg num_classes={given}, but there are {num_classes} classes.")
    model = zoo.create(
        qualified, pretrained=how["pretrained"], weights=how["weights"], reset_head=how["reset_head"], **arguments
    )
    spec = zoo.describe(model)
    others = zoo.also_known_as(qualified)
    also = f" (there is also {', '.join(others)})" if others and name != qualified else ""
    console.log(f"model: {name} means {qualified}{also}" if name != qualified else f"model: {qualified}")
    console.log(f"weights: {spec.weights if spec else 'unknown'}")
    return model


def load(console: Console, path: str, *, trust_factory: bool) -> nn.Module:
    """Reads a checkpoint."""
    from perturbify import checkpoint

    header = checkpoint.read_header(path)
    model = checkpoint.load(path, trust_factory=trust_factory)
    name = header.model["name"] if header.model else header.source_class
    console.log(f"model: {name} from {Path(path).name}, {len(header.sites)} noise sites")
    return model
