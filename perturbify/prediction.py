"""The predictions of a network with noise: by one draw, or by the mean of several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.display import MOST_ROWS, Fact, lines, page, some, spread
from perturbify.errors import ModelError
from perturbify.text import counted, times

_HINT = "Give a module whose forward gives logits of shape (images, classes)."


@dataclass(frozen=True)
class Prediction:
    """The predictions for a batch.

    Attributes:
        classes: The predicted class of each image, shape (N,), int64.
        probabilities: Mean softmax over the draws, shape (N, K).
        draws: Number of draws.
        radii: Certified radius of each prediction, shape (N,): no perturbation of smaller l2 norm, in pixels of [0, 1],
            changes it, at the stated confidence; 0 where nothing is certified. None for methods that do not certify.
    """

    classes: Tensor
    probabilities: Tensor
    draws: int
    radii: Tensor | None = None

    def __repr__(self) -> str:
        return lines(self._title, [("classes", some(self.classes[:9].tolist(), len(self.classes))), *self._facts])

    def _repr_html_(self) -> str:
        first = slice(MOST_ROWS)
        columns = [self.classes[first].tolist(), [f"{p:.3f}" for p in self._chosen[first].tolist()]]
        if self.radii is not None:
            columns.append([f"{r:.4g}" for r in self.radii[first].tolist()])
        rows = [(str(i), *map(str, row)) for i, row in enumerate(zip(*columns, strict=True))]
        head = ("image", "class", "probability", "certified l2 radius")[: 1 + len(columns)]
        return page(self._title, self._facts, head, rows, of=len(self.classes))

    @property
    def _title(self) -> str:
        return f"Prediction: {counted(len(self.classes), 'image')} by {counted(self.draws, 'draw')} each"

    @property
    def _facts(self) -> list[Fact]:
        radii = "" if self.radii is None else f"{spread(self.radii.tolist())}; {int((self.radii > 0).sum()):,} above 0"
        return [
            ("probability", f"of the answers {spread(self._chosen.tolist())}; {self.probabilities.shape[1]:,} classes"),
            ("radii", radii),
        ]

    @property
    def _chosen(self) -> Tensor:
        """The mean probability of each answer."""
        return self.probabilities.gather(1, self.classes[:, None])[:, 0]


def logits_of(answer: Any) -> Tensor | None:
    """The logits in what a network answers with; None where there are none."""
    if isinstance(answer, Tensor):
        return answer
    held = getattr(answer, "logits", None)
    if held is None and isinstance(answer, Mapping):
        held = next((answer[k] for k in ("logits", "out", "output", "prediction") if k in answer), None)
    if held is None and isinstance(answer, tuple | list) and answer:
        held = answer[0]
    return held if isinstance(held, Tensor) else None


def read_logits(answer: Any, name: str, images: int) -> Tensor:
    """The logits in what a network answers with.

    Args:
        answer: Logits, something with ``.logits``, or a dict or tuple with them.
        name: What the network is called.
        images: How many it was asked about.

    Returns:
        Shape (images, classes), at least two classes.

    Raises:
        ModelError: There are none.
    """
    found = logits_of(answer)
    if found is None:
        raise ModelError(f"{name} answers with {type(answer).__name__}, in which no logits are to be found.", _HINT)
    if found.dim() == 4:
        raise ModelError(
            f"{name} gives a map of {times(found.shape[1:])} for each image, and a classifier of whole images gives "
            "one row of logits.",
            _HINT,
        )
    if found.dim() != 2 or len(found) != images or not found.is_floating_point():
        raise ModelError(f"{name} is not a classifier: it does not give one row of logits an image.", _HINT)
    if found.shape[1] == 1:
        raise ModelError(
            f"{name} gives a single number for each image, and not the logits of two classes or more.",
            "Give a module with two logits: torch.cat([-z, z], 1) / 2 decides as a sigmoid of z does.",
        )
    return found


def predict_mean(network: nn.Module, images: Tensor, draws: int) -> Prediction:
    """The mean softmax of several draws, and its most likely class."""
    probabilities = Ensemble(network, draws)(images).exp()
    return Prediction(probabilities.argmax(1), probabilities, draws)


class Ensemble(nn.Module):
    """A random network as it predicts by several draws: the logarithm of their mean softmax.

    Args:
        network: A classifier.
        draws: Forwards per prediction; at least 1.
    """

    def __init__(self, network: nn.Module, draws: int) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1, not {draws}")
        super().__init__()
        self.network = network
        self.training = network.training
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        """Returns log-probabilities, shape (N, K), from fresh draws at each call."""
        # In logarithms and float32: a class that underflows in a softmax would have a gradient of NaN.
        total = self._draw(images)
        for _ in range(self.draws - 1):
            total = torch.logaddexp(total, self._draw(images))
        return total - math.log(self.draws)

    def _draw(self, images: Tensor) -> Tensor:
        logits = read_logits(self.network(images), type(self.network).__name__, len(images))
        return logits.float().log_softmax(1)
