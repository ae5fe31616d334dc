"""AutoAttack's APGD, from the package ``pyautoattack``, corrected for random networks."""

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
    """Auto-PGD, which adapts its step size (Croce and Hein, 2020).

    The library accepts points, halves steps and drops images based on the last of its draws
    (https://github.com/fra31/auto-attack/issues/105). Here it sees a network that averages its logits over ``draws``
    fresh draws, so all of this is based on the average, and no image is dropped: on a random network, the point with
    the largest loss is returned. On a deterministic one it is the library's own attack: it returns a point that fools
    the network if there was one, else the one with the largest loss.

    Attributes:
        loss: ``"ce"``, cross-entropy, or ``"dlr"``, difference of logits ratio, which needs three classes.
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        steps: Number of steps; 100 in the paper.
        restarts: Number of runs from random points.
        draws: Draws of the noise to average; 20 in AutoAttack's ``rand`` version. 1 for a deterministic network.
        norm: ``"linf"`` or ``"l2"``.
        at_once: Draws per forward pass; more than 1 only if each image of a batch has draws of its own.

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
            raise ValueError(f'loss must be "ce" or "dlr", not {self.loss!r}')
        check_ball(self.norm, self.epsilon)
        if min(self.steps, self.restarts, self.draws, self.at_once) < 1:
            raise ValueError(
                f"steps, restarts, draws and at_once must be at least 1, not {self.steps}, {self.restarts}, "
                f"{self.draws} and {self.at_once}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Its requirements."""
        return frozenset({"gradients", "3 classes"} if self.loss == "dlr" else {"gradients"})

    @property
    def passes(self) -> Passes:
        """Cost per image on a random network; a deterministic one needs one pass instead of each average."""
        return Passes(2 + self.restarts * compared(self.draws), 1 + self.restarts * (self.steps + 1) * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where one more draw is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed, or the loss is ``"dlr"`` and there are fewer than three classes.
            ModelError: The network has no gradient with respect to its images.
        """
        library, x = borrow("pyautoattack.autopgd_base"), x.detach()
        with frozen_eval(model), torch.no_grad(), quiet():
            need_classes(self, model, model(x))
            input_gradient(model, x, y)  # raises if there is none
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

    The second and longest part of AutoAttack, corrected for random networks like :class:`Apgd`. An image skips further
    targets once it is settled: on a deterministic network at the first success, as in the library; on a random one when
    :data:`~perturbify.attacks.attack.SETTLING_DRAWS` fresh draws are all wrong.

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        steps: Steps towards each class; 100 in the paper.
        targets: Classes to target; 9 in the paper, at most all wrong ones.
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
    def needs(self) -> frozenset[Need]:
        """Its requirements: the loss compares four classes."""
        return frozenset({"gradients", "4 classes"})

    @property
    def passes(self) -> Passes:
        """Cost per image, if none is settled before the last target; otherwise as for :class:`Apgd`."""
        between = self.targets * (compared(self.draws) + SETTLING_DRAWS)
        return Passes(2 + self.draws + between, 1 + self.targets * (self.steps + 1) * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where one more draw is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed, or there are fewer than four classes.
            ModelError: The network has no gradient with respect to its images.
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
    """One run: the point with the largest loss or, on a deterministic network, the last one that fooled it."""
    pixels = x.float()
    apgd.init_hyperparam(pixels)
    greatest, right, _, fooling = apgd.attack_single_run(pixels, y)
    if not still:
        return greatest
    return torch.where(per_image(right.bool(), greatest), greatest, fooling)
