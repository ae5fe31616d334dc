"""AutoAttack's Square, from the package ``pyautoattack``, corrected for random networks and plateaus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import Crafted, Passes, check_ball, wrong
from perturbify.attacks.gradient import frozen_eval
from perturbify.attacks.libraries.borrowed import NORMS, View, borrow, quiet
from perturbify.attacks.losses import margin
from perturbify.attacks.realisations import Frozen, randomness
from perturbify.errors import CheckError, ModelError


@dataclass(frozen=True)
class Square:
    """Gradient-free random search with squares (Andriushchenko et al., 2020).

    A search on a random network keeps the luckiest draw, so this one queries a :class:`Frozen` view of it. If no seed
    freezes the network, it queries averages of fresh draws, and is weak: a lucky candidate stays the best. The library
    stops for an image at its first success, where the image has barely crossed the boundary and fresh noise pushes it
    back; here it does so only for deterministic networks, and on random ones it keeps lowering the margin until the
    queries run out. The image with the lowest margin is returned, whether or not it succeeds. Unlike in the library, a
    candidate that ties with the best replaces it, so the search crosses the plateaus of a network that rounds.

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        queries: Candidates per image, not counting the first.
        draws: Realisations of the noise, or fresh draws, averaged per query; 1 for a deterministic network.
        norm: ``"linf"`` or ``"l2"``.
        seed: Seed of the realisations; the search itself draws from torch's global generator.

    Raises:
        ValueError: A setting is outside its range.
    """

    epsilon: float = 8 / 255
    queries: int = 5000
    draws: int = 10
    norm: Literal["linf", "l2"] = "linf"
    seed: int = 0

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon)
        if self.queries < 1 or self.draws < 1:
            raise ValueError(f"queries and draws must be at least 1, not {self.queries} and {self.draws}")

    @property
    def passes(self) -> Passes:
        """Cost per image on a random network; a deterministic one needs one pass per query, and none after success."""
        return Passes(self.draws * (self.queries + 4), 0)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where the view that it searched is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed, or the images are too small for squares.
        """
        if self.norm == "l2" and min(x.shape[2:]) < _SMALLEST:
            raise CheckError(
                f"Square in l2 needs images of at least {_SMALLEST} pixels a side, not {x.shape[2]}×{x.shape[3]}.",
                'Attack them with norm="linf".',
            )
        library = borrow("pyautoattack.square")
        pixels = x.detach().float()
        with frozen_eval(model), torch.no_grad(), quiet():
            still = randomness(model, x[:2]) == "none"
            frozen = Frozen(model, 1 if still else self.draws, self.seed, by_place=True)
            freezes = still or _freezes(frozen, x)
            view = View(frozen, x.dtype) if freezes else View(model, x.dtype, self.draws)
            square = library.SquareAttack(view, norm=NORMS[self.norm], n_queries=self.queries, eps=self.epsilon)
            square.margin_and_loss = _Judge(view, len(x), still)
            square.init_hyperparam(pixels)
            _, images = square.attack_single_run(pixels, y)
            return Crafted(images.to(x.dtype), wrong(view, images, y))


def _freezes(frozen: Frozen, x: Tensor) -> bool:
    try:
        first, second = frozen(x), frozen(x)
    except ModelError:
        return False
    return torch.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)


class _Judge:
    """Tells the library which candidates to take, and which images are done.

    The library accepts a candidate with a smaller loss, and continues with the images of positive margin. So it is
    given a verdict instead of a loss: lower than ever before if the candidate is at least as good, higher if not.

    Args:
        view: The network as it is searched.
        images: How many images there are.
        still: Whether an image is finished at its first success.
    """

    def __init__(self, view: View, images: int, still: bool) -> None:
        self._view, self._still, self._calls = view, still, 0
        self._greatest = torch.full((images,), -math.inf)
        self._open = torch.arange(images)

    def __call__(self, candidates: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        margins = margin(self._view(candidates), y).cpu()
        taken = margins >= self._greatest[self._open]
        self._greatest[self._open] = torch.where(taken, margins, self._greatest[self._open])
        done = taken & (margins > 0) if self._still else torch.zeros_like(taken)
        self._open, self._calls = self._open[~done], self._calls + 1
        loss = torch.where(taken, -self._calls, 1)
        return torch.where(done, -1.0, 1.0).to(y.device), loss.float().to(y.device)


_SMALLEST = 5  # the first l2 candidate is a grid of five tiles a side
