"""The predictions of a network with noise: by one draw, or by the mean of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
        total = self.network(images).float().log_softmax(1)
        for _ in range(self.draws - 1):
            total = torch.logaddexp(total, self.network(images).float().log_softmax(1))
        return total - math.log(self.draws)
