"""Corrects a library's attack for random networks: an averaged view, small batches, selection on fresh draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import COMPARING_DRAWS, SETTLING_DRAWS
from perturbify.attacks.best import Best
from perturbify.attacks.libraries.borrowed import View
from perturbify.attacks.losses import likely_wrong, margin
from perturbify.attacks.realisations import randomness

FORWARD = 512
"""Approximate number of images times draws in the graph of one averaged forward pass: bounds the memory."""


class Averaged:
    """A network under a library's attack, and the best result for each image so far.

    Args:
        model: A classifier.
        x: Images, shape (N, C, H, W), in [0, 1].
        y: True labels, shape (N,), int64.
        draws: Draws of the noise that the view averages, if there is noise.
        at_once: Draws per forward pass.

    Attributes:
        still: Whether the network is deterministic.
        view: The network as the library takes it.
        best: The best so far.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, draws: int, at_once: int) -> None:
        self.still = randomness(model, x[:2]) == "none"
        self._model, self._x, self._y, self._draws = model, x, y, 1 if self.still else draws
        self.view = View(model, x.dtype, self._draws, at_once)
        self.best = Best(model, x, y, 1 if self.still else max(draws, COMPARING_DRAWS))

    def parts(self) -> Iterator[Tensor]:
        """Indices of all images, as many at a time as one graph may hold."""
        yield from torch.arange(len(self._x), device=self._x.device).split(max(1, FORWARD // self._draws))

    def targets(self, number: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Iterates over the most likely wrong classes, for the images not yet settled at each.

        An image is settled for a deterministic network when the best result so far fools it, for a random one when
        :data:`~perturbify.attacks.attack.SETTLING_DRAWS` fresh draws are all wrong.

        Args:
            number: Maximum number of classes.

        Yields:
            The rank of the target, 0 first, the indices of the images, and the target of each.
        """
        for part in self.parts():
            classes = likely_wrong(self.view(self._x[part]), self._y[part], number)
            for rank in range(classes.shape[1]):
                yield rank, part, classes[:, rank]
                left = ~self._settled(part)
                part, classes = part[left], classes[left]
                if len(part) == 0:
                    break

    def _settled(self, part: Tensor) -> Tensor:
        if self.still:
            return self.best.margins[part] > 0
        images, y = self.best.images[part], self._y[part]
        draws = [margin(self._model(images), y) > 0 for _ in range(SETTLING_DRAWS)]
        return torch.stack(draws).all(0)


def compared(draws: int) -> int:
    """Forward passes per comparison of an attack's results on a random network."""
    return max(draws, COMPARING_DRAWS)
