"""APGD of AutoAttack, by its package ``pyautoattack``, right for random networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import SETTLING_DRAWS, Crafted, Need, Passes, check_ball, wrong
from perturbify.attacks.ball import per_image
from perturbify.attacks.gradient import frozen_eval, input_gradient
from perturbify.attacks.libraries.averaged import Averaged, compared
from perturbify.attacks.libraries.borrowed import NORMS, borrow, need_classes, quiet


@dataclass(frozen=True)
class Apgd:
    """Auto-PGD, which chooses its step sizes by itself (Croce and Hein, 2020).

    The library takes points, halves steps and drops images by the last of its draws
    (https://github.com/fra31/auto-attack/issues/105). Here it sees a network that averages its logits over ``draws``
    fresh draws, so the loss of the average does all that, and no image is dropped: on a random network the point with
    the greatest loss comes back. On a deterministic one it is the library's own attack: a point that fools comes back
    where there was one, and otherwise that with the greatest loss.

    Attributes:
        loss: ``"ce"``, cross-entropy, or ``"dlr"``, difference of logits ratio, which needs three classes.
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        steps: Number of steps; 100 in the paper.
        restarts: Runs from other random points.
        draws: Draws of the noise that are averaged; 20 in AutoAttack's ``rand`` version. A deterministic network gets
            1.
        norm: ``"linf"`` or ``"l2"``.
        at_once: Draws in one forward; more than 1 only where every image of a batch has draws of its own.

    Raises:
        ValueError: A setting is outside its range.
    """

    loss: Literal["ce", "dlr"] = "ce"
    epsilon: float = 8 / 255
    steps: int = 100
    restarts: int = 1
    draws: int = 20
    norm: Literal["linf", "l2"] = "linf"
    at_once: int = 1

    def __post_init__(self) -> None:
        if self.loss not in ("ce", "dlr"):
            raise ValueError(f'loss is "ce" or "dlr", not {self.loss!r}')
        check_ball(self.norm, self.epsilon)
        if min(self.steps, self.restarts, self.draws, self.at_once) < 1:
            raise ValueError(
                f"steps, restarts, draws and at_once must be at least 1, not {self.steps}, {self.restarts}, "
                f"{self.draws} and {self.at_once}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """What it cannot do without."""
        return frozenset({"gradients", "3 classes"} if self.loss == "dlr" else {"gradients"})

    @property
    def passes(self) -> Passes:
        """Its cost: that of a random network; a deterministic one needs one pass where this one averages."""
        return Passes(2 + self.restarts * compared(self.draws), 1 + self.restarts * (self.steps + 1) * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; it holds that it succeeded where one more draw is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed, or the loss is ``"dlr"`` and there are fewer than three classes.
            ModelError: The network gives no gradient for its images.
        """
        library, x = borrow("pyautoattack.autopgd_base"), x.detach()
        with frozen_eval(model), torch.no_grad(), quiet():
            need_classes(self, model, model(x))
            input_gradient(model, x, y)  # which says so where there is none
            averaged = Averaged(model, x, y, self.draws, self.at_once)
            apgd = library.APGDAttack(
                averaged.view, n_iter=self.steps, norm=NORMS[self.norm], eps=self.epsilon, loss=self.loss
            )
            for part in averaged.parts():
                for _ in range(self.restarts):
                    averaged.best.offer(_run(apgd, x[part], y[part], averaged.still), part)
            images = averaged.best.images
            return Crafted(images, wrong(model, images, y))


@dataclass(frozen=True)
class ApgdT:
    """APGD towards each of the most likely wrong classes, on the targeted difference of logits ratio.

    The third and longest part of AutoAttack, corrected for random networks as :class:`Apgd` is. An image is left out
    of further targets once it is settled: by success on a deterministic network, as in the library; on a random one
    where :data:`~perturbify.attacks.attack.SETTLING_DRAWS` fresh draws are all wrong.

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        steps: Steps towards each class; 100 in the paper.
        targets: Classes to go for; 9 in the paper, and at most all wrong ones.
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
    def needs(self) -> frozenset[Need]:
        """What it cannot do without: the loss compares four classes."""
        return frozenset({"gradients", "4 classes"})

    @property
    def passes(self) -> Passes:
        """Its cost, where no image is settled before the last target, and as for :class:`Apgd`."""
        between = self.targets * (compared(self.draws) + SETTLING_DRAWS)
        return Passes(2 + self.draws + between, 1 + self.targets * (self.steps + 1) * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; it holds that it succeeded where one more draw is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed, or there are fewer than four classes.
            ModelError: The network gives no gradient for its images.
        """
        library, x = borrow("pyautoattack.autopgd_base"), x.detach()
        with frozen_eval(model), torch.no_grad(), quiet():
            need_classes(self, model, model(x))
            input_gradient(model, x, y)
            averaged = Averaged(model, x, y, self.draws, self.at_once)
            apgd = library.APGDAttack_targeted(
                averaged.view, n_iter=self.steps, norm=NORMS[self.norm], eps=self.epsilon
            )
            for _, part, wanted in averaged.targets(self.targets):
                apgd.y_target = wanted
                averaged.best.offer(_run(apgd, x[part], y[part], averaged.still), part)
            images = averaged.best.images
            return Crafted(images, wrong(model, images, y))


def _run(apgd: Any, x: Tensor, y: Tensor, still: bool) -> Tensor:
    """One run: the point of greatest loss, but the last that fooled where that proves something."""
    pixels = x.float()
    apgd.init_hyperparam(pixels)
    greatest, right, _, fooling = apgd.attack_single_run(pixels, y)
    if not still:
        return greatest
    return torch.where(per_image(right.bool(), greatest), greatest, fooling)
