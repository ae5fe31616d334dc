"""AutoAttack's FAB, from the package ``pyautoattack``, corrected for random networks."""

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
    """Fast adaptive boundary attack: the nearest decision boundary of each likely wrong class (Croce and Hein, 2020).

    The third part of AutoAttack. It searches for the smallest change, and the library keeps it if it is small enough.
    At a boundary a random network's answer is a coin flip, so two points per class are compared: the one that was
    found, projected onto the ball, and the one in the same direction on the ball's surface. The library sees a network
    that averages its logits over ``draws`` fresh draws; images are settled as for
    :class:`~perturbify.attacks.libraries.ApgdT`. Images that this average already misclassifies stay unchanged.

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        steps: Steps towards each class; 100 in AutoAttack.
        targets: Classes to target; 9 in AutoAttack, at most all wrong ones.
        draws: Draws of the noise to average; 1 for a deterministic network.
        norm: ``"linf"`` or ``"l2"``.
        at_once: Draws per forward pass; more than 1 only if each image of a batch has draws of its own.

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
        """Cost per image on a random network, if none is settled before the last target."""
        each = self.steps + 2  # one per point and, before the first, one each for the image and its target
        forward = self.targets * (each * self.draws + 2 * compared(self.draws) + SETTLING_DRAWS)
        return Passes(1 + self.draws + forward, 1 + self.targets * self.steps * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where one more draw is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed.
            ModelError: The network has no gradient with respect to its images.
        """
        library, x = borrow("pyautoattack.fab_pt"), x.detach()
        with frozen_eval(model), torch.no_grad(), quiet():
            input_gradient(model, x, y)  # raises if there is none
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
