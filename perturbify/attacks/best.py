"""Of several candidates the best one, image by image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from perturbify.attacks.ball import per_image
from perturbify.attacks.losses import mean_margin


class Best:
    """Of each image the candidate with the greatest margin of a wrong class, of those offered so far.

    The margin is averaged over fresh draws of the noise, which no candidate was made by: a candidate's own draws are
    partly what it was chosen for.

    Args:
        model: A classifier.
        x: Images, shape (N, C, H, W): what comes back where nothing was offered.
        y: True labels, shape (N,), int64.
        draws: Draws that compare; :data:`~perturbify.attacks.attack.COMPARING_DRAWS` at least where there is noise.

    Attributes:
        images: The best so far, shape of ``x``.
        margins: Their margins, shape (N,).
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, draws: int) -> None:
        self._model, self._y, self._draws = model, y, draws
        self.images = x.clone()
        self.margins = torch.full((len(x),), -math.inf, device=x.device)

    def offer(self, candidates: Tensor, which: Tensor | None = None) -> None:
        """Takes those candidates that are at least as good: where all are alike, one of them still comes back.

        Args:
            candidates: Images, shape (K, C, H, W).
            which: Indices of the images that they are of, shape (K,); None for all, in their order.
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
