"""Arguments of public functions: one of the wrong type raises an error that says what to pass instead."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from perturbify.errors import ModelError, WrongType

_CHECKPOINT, _WEIGHTS = ".safetensors", (".pth", ".pt", ".bin", ".ckpt", ".tar")


def check_type(value: Any, kinds: type | tuple[type, ...], what: str, hint: str | None = None) -> None:
    """Makes sure that an argument is of a type, or of one of several.

    Args:
        value: The argument.
        kinds: The types that it may have.
        what: What is expected, with the function: ``"load() takes the path of a file"``.
        hint: What to pass instead.

    Raises:
        WrongType: It has another type.
    """
    if not isinstance(value, kinds):
        raise WrongType(f"{what}, not {described(value)}.", hint)


def check_path(value: Any, function: str, what: str, hint: str | None = None) -> None:
    """Makes sure that an argument can be a path.

    Args:
        value: The argument.
        function: Name of the function.
        what: What is at the path: ``"a file"``.
        hint: What to pass instead.

    Raises:
        WrongType: It cannot be.
    """
    check_type(value, (str, os.PathLike), f"{function}() takes the path of {what}", hint)


def check_network(value: Any, function: str = "") -> None:
    """Makes sure that an argument is a network.

    Args:
        value: The argument.
        function: Name of the function; empty if it could be one of several.

    Raises:
        ModelError: It is not; the hint says how to get a network from it.
    """
    from torch import nn  # reading settings does not need torch

    if not isinstance(value, nn.Module):
        whose = f" for {function}()" if function else ""
        raise ModelError(
            f"A network{whose} must be a torch.nn.Module, not {described(value)}.", _to_a_network(value, nn.Module)
        )


def described(value: Any) -> str:
    """An argument in an error's words: its type and, for a string, a number or a class, its value."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    short = isinstance(value, (str, int, float, PurePath)) and len(str(value)) <= 60
    return f"{kind} ({str(value)!r})" if short else kind


def _to_a_network(value: Any, kind_of_network: type) -> str:
    """How to get a network from what was passed instead."""
    if isinstance(value, type):
        return f"Create an instance: {value.__name__}(…)."
    if isinstance(value, (str, PurePath)):
        name, kind = str(value), PurePath(value).suffix
        if kind == _CHECKPOINT:
            return f"perturbify.load({name!r}) reads the network from a perturbify file."
        if kind in _WEIGHTS:
            return f"perturbify.zoo.create(NAME, weights={name!r}) builds one with these weights."
        return f"perturbify.zoo.create({name!r}) builds a network by its name."
    if isinstance(value, dict) and value:
        return "Build the network, and load these weights into it: network.load_state_dict(weights)."
    if isinstance(getattr(value, "model", None), kind_of_network):
        return "Pass its .model."
    if callable(value):
        return "Call it in the forward of a torch.nn.Module."
    return "Pass an instance of torch.nn.Module."
