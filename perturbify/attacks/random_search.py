"""Random search in an l∞ or l2 ball: the baseline that every gradient attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import Crafted, Passes, check_ball, wrong
from perturbify.attacks.best import Best
from perturbify.attacks.gradient import frozen_eval


@dataclass(frozen=True)
class RandomSearch:
    """Tries random points of the ball and keeps, for each image, the one with the largest margin of a wrong class.

    If random points beat a gradient attack, the gradient is masked (Athalye et al., 2018; Carlini et al., 2019). For
    this comparison to be meaningful, the points must be strong, so they lie as far out as the ball allows: for l∞ at
    its corners, each value ε up or down, where a loss that is nearly linear in so small a ball has √3 times the spread
    it has over the ball; for l2 on its surface, where nearly all of a high-dimensional ball lies anyway. Then they are
    clipped to [0, 1].

    The clean image is not among them, and no image stops at a success: one draw proves nothing for a random network.
    There, with one draw per try the luckiest wins; raise ``draws``.

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels of [0, 1], for l2 the length of the whole perturbation.
        tries: Points to try for each image.
        draws: Draws of the noise over which the margin of each is averaged.
        norm: ``"linf"`` or ``"l2"``.

    Raises:
        ValueError: A setting is outside its range.
    """

    epsilon: float = 8 / 255
    tries: int = 100
    draws: int = 1
    norm: Literal["linf", "l2"] = "linf"

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon)
        if self.tries < 1 or self.draws < 1:
            raise ValueError(f"tries and draws must be at least 1, not {self.tries} and {self.draws}")

    @property
    def passes(self) -> Passes:
        """Cost per image."""
        return Passes(self.tries * self.draws + 1, 0)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where one more draw is wrong."""
        x = x.detach()
        with frozen_eval(model), torch.no_grad():
            best = Best(model, x, y, self.draws)
            for _ in range(self.tries):
                best.offer((x + self.epsilon * self._direction(x)).clamp(0, 1))
            return Crafted(best.images, wrong(model, best.images, y))

    def _direction(self, x: Tensor) -> Tensor:
        normal = torch.randn_like(x)
        if self.norm == "linf":
            return torch.where(normal < 0, -1, 1).to(x.dtype)
        return normal / normal.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
