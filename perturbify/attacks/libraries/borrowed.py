"""What every adapter needs: the library, silenced, and the network in the form that libraries expect."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import Attack, needs_of
from perturbify.attacks.gradient import copies, parts
from perturbify.errors import CheckError

NORMS = {"linf": "Linf", "l2": "L2"}
"""Their names in pyautoattack."""


def borrow(name: str) -> ModuleType:
    """Imports a library, or a module of it.

    Args:
        name: Dotted name of the module.

    Raises:
        CheckError: It is not installed, or cannot be imported.
    """
    library = name.partition(".")[0]
    package = "'perturbify[attacks]'" if library == "foolbox" else library
    # foolbox imports GitPython, which refuses to be imported where there is no git, unless told to be quiet.
    told = "GIT_PYTHON_REFRESH" in os.environ
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise CheckError(
            f"This attack is one of {library}'s, and {error.name} is not installed.",
            f"Install it with pip install {package}.",
        ) from error
    except ImportError as error:
        raise CheckError(
            f"This attack is one of {library}'s, which cannot be imported: {error}.",
            f"Reinstall it with pip install {package}.",
        ) from error
    finally:
        if not told:
            os.environ.pop("GIT_PYTHON_REFRESH", None)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses the libraries' warnings and logs, and nobody else's."""
    logger = logging.getLogger("auto-attack")
    disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pyautoattack|foolbox|eagerpy)\b")
            yield
    finally:
        logger.disabled = disabled


class View(nn.Module):
    """A network as the libraries expect it: float32 in and out, and no parameters that they could move or train.

    It averages logits over fresh draws, so a library that accepts, filters and steps based on one forward pass does so
    based on the average. Logits rather than probabilities, since the mean of probabilities has no gradient if each draw
    is confident, and the libraries' losses are made for logits; :class:`~perturbify.attacks.Frozen` averages them, too.
    A NaN in a draw's gradient counts as 0.

    Args:
        model: A classifier that takes pixels in [0, 1].
        dtype: Dtype of the images that it takes.
        draws: Draws of the noise whose logits are averaged.
        at_once: Draws in one forward; more than 1 only where every image of a batch has draws of its own.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, draws: int = 1, at_once: int = 1) -> None:
        super().__init__()
        self._hidden = (model,)  # in a tuple, where nn.Module does not look for parts of itself
        self._dtype, self._draws, self._at_once = dtype, draws, at_once
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, shape (N, classes), float32, in their own memory, since the Square attack overwrites them."""
        (model,) = self._hidden
        images = images.to(self._dtype)
        logits = []
        for number in parts(self._draws, self._at_once):
            batch = copies(images, number)
            if batch.requires_grad:
                batch = batch.view_as(batch)  # a hook on the library's own tensor would stay there
                batch.register_hook(torch.nan_to_num)
            logits.extend(model(batch).float().chunk(number))
        return torch.stack(logits).mean(0)


def need_classes(attack: Attack, model: nn.Module, logits: Tensor) -> None:
    """Refuses a network with fewer classes than an attack needs.

    Raises:
        CheckError: It has fewer.
    """
    needs = needs_of(attack)
    least = 4 if "4 classes" in needs else 3 if "3 classes" in needs else 2
    if logits.shape[1] < least:
        raise CheckError(
            f"{type(attack).__name__} needs {least} or more classes, and {type(model).__name__} has {logits.shape[1]}.",
            "Attack it with MarginPgd, or APGD on the cross-entropy.",
        )
