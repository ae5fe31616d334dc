"""What every adapter needs: the library, silence, and the network in the shape that libraries take."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from perturbify.errors import CheckError


def borrow(name: str) -> ModuleType:
    """Imports a library, or a module of it.

    Args:
        name: Dotted name of the module.

    Raises:
        CheckError: It is not installed, or does not import.
    """
    library = name.partition(".")[0]
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
            "Install it with pip install 'perturbify[attacks]'.",
        ) from error
    except ImportError as error:
        raise CheckError(
            f"This attack is one of {library}'s, which does not import: {error}.",
            "Install it anew with pip install 'perturbify[attacks]'.",
        ) from error
    finally:
        if not told:
            os.environ.pop("GIT_PYTHON_REFRESH", None)


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what the libraries warn of, and nothing that anybody else does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pyautoattack|foolbox|eagerpy)\b")
        yield


class View(nn.Module):
    """A network as the libraries take one: float32 in and out, and no parameters that they could move or train.

    Logits are a copy, since the Square attack writes into them.

    Args:
        model: A classifier that takes pixels in [0, 1].
        dtype: Dtype of the images that it takes.
        draws: Forwards, each with noise of its own, whose logits are averaged.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, draws: int = 1) -> None:
        super().__init__()
        self._hidden = (model,)  # in a tuple, where nn.Module does not look for parts of itself
        self._dtype, self._draws = dtype, draws
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Gives logits, shape (N, classes), float32."""
        (model,) = self._hidden
        images = images.to(self._dtype)
        return torch.stack([model(images).float() for _ in range(self._draws)]).mean(0)
