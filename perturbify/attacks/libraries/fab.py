"""FAB of AutoAttack, by its package ``pyautoattack``, right for random networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import SETTLING_DRAWS, Crafted, Passes, check_ball, wrong
from perturbify.attacks.ball import ball, per_image
from perturbify.attacks.gradient import frozen_eval, input_gradient
from perturbify.attacks.libraries.averaged import Averaged, compared
from perturbify.attacks.libraries.borrowed import NORMS, borrow, quiet


@dataclass(frozen=True)
class FabT:
    """Fast adaptive boundary attack: the nearest border of each likely wrong class (Croce and Hein, 2020).

    The third part of AutoAttack. It looks for the smallest change, and the library keeps it where it is small enough.
    At a border a random network answers one way or the other, so of each class two points are compared: the one that
    was found, put back into the ball where it lies outside, and the one in the same direction as far out as the ball
    goes. The library sees a network that averages its logits over ``draws`` fresh draws; images are settled as for
    :class:`~perturbify.attacks.libraries.ApgdT`. Images that this average gets wrong to begin with stay as they are.

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        steps: Steps towards each class; 100 in AutoAttack.
        targets: Classes to go for; 9 in AutoAttack, and at most all wrong ones.
        draws: Draws of the noise that are averaged; a deterministic network gets 1.
        norm: ``"linf"`` or ``"l2"``.
        at_once: Draws in one forward; more than 1 only where every image of a batch has draws of its own.

    Raises:
        ValueError: A setting is outside its range.
    """

    epsilon: float = 8 / 255
    steps: int = 100
    targets: int = 9
    draws: int = 20
    norm: Literal["linf", "l2"] = "linf"
    at_once: int = 1

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon)
        if min(self.steps, self.targets, self.draws, self.at_once) < 1:
            raise ValueError(
                f"steps, targets, draws and at_once must be at least 1, not {self.steps}, {self.targets}, "
                f"{self.draws} and {self.at_once}"
            )

    @property
    def passes(self) -> Passes:
        """Its cost: that of a random network of which no image is settled before the last target."""
        each = self.steps + 2  # a look at every point and, before the first, at the image and its target
        forward = self.targets * (each * self.draws + 2 * compared(self.draws) + SETTLING_DRAWS)
        return Passes(1 + self.draws + forward, 1 + self.targets * self.steps * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; it holds that it succeeded where one more draw is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed.
            ModelError: The network gives no gradient for its images.
        """
        library, x = borrow("pyautoattack.fab_pt"), x.detach()
        with frozen_eval(model), torch.no_grad(), quiet():
            input_gradient(model, x, y)  # which says so where there is none
            averaged = Averaged(model, x, y, self.draws, self.at_once)
            fab = library.FABAttack_PT(averaged.view, norm=NORMS[self.norm], n_iter=self.steps, eps=self.epsilon)
            for rank, part, _ in averaged.targets(self.targets):
                fab.target_class = rank + 2  # counted from the most likely class, which is the true one
                found = fab.attack_single_run(x[part].float(), y[part], is_targeted=True).to(x.dtype)
                inside = ball(self.norm, x[part], self.epsilon)
                averaged.best.offer(inside.project(found), part)
                averaged.best.offer(inside.project(self._stretched(x[part], found)), part)
            images = averaged.best.images
            return Crafted(images, wrong(model, images, y))

    def _stretched(self, x: Tensor, found: Tensor) -> Tensor:
        change = found - x
        flat = change.flatten(1)
        length = flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)
        return x + change * per_image(self.epsilon / length.clamp(min=1e-12), change)
