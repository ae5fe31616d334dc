"""The best of several candidates, image by image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from perturbify.attacks.ball import per_image
from perturbify.attacks.losses import mean_margin


class Best:
    """Keeps, for each image, the candidate with the largest margin of a wrong class among those offered so far.

    The margin is averaged over fresh draws of the noise, on which no candidate was crafted: a candidate is partly
    selected for its own draws.

    Args:
        model: A classifier.
        x: Images, shape (N, C, H, W), returned where no candidate was offered.
        y: True labels, shape (N,), int64.
        draws: Draws per comparison; at least :data:`~perturbify.attacks.attack.COMPARING_DRAWS` for a network with
            noise.

    Attributes:
        images: The best so far, shape of ``x``.
        margins: Their margins, shape (N,).
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, draws: int) -> None:
        self._model, self._y, self._draws = model, y, draws
        self.images = x.clone()
        self.margins = torch.full((len(x),), -math.inf, device=x.device)

    def offer(self, candidates: Tensor, which: Tensor | None = None) -> None:
        """Takes candidates that are at least as good, so a candidate is returned even if all are equal.

        Args:
            candidates: Images, shape (K, C, H, W).
            which: Indices of the images that they belong to, shape (K,); None for all, in order.
        """
        which = torch.arange(len(self.images), device=self.images.device) if which is None else which
        margins = mean_margin(self._model, candidates, self._y[which], self._draws)
        self.take(candidates, margins.float(), which)

    def take(self, candidates: Tensor, margins: Tensor, which: Tensor) -> None:
        """The same for candidates whose margins, shape (K,), are known."""
        better = margins >= self.margins[which]
        kept = self.images[which]
        self.images[which] = torch.where(per_image(better, kept), candidates.to(kept.dtype), kept).detach()
        self.margins[which] = torch.where(better, margins, self.margins[which])
