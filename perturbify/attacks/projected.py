"""FGSM, PGD and EOT-PGD inside an l∞ or l2 ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import COMPARING_DRAWS, Crafted, Passes, Role, check_ball, wrong
from perturbify.attacks.ball import ball
from perturbify.attacks.best import Best
from perturbify.attacks.gradient import frozen_eval, input_gradient


@dataclass(frozen=True)
class Pgd:
    """Projected gradient ascent on the cross-entropy, on pixels in [0, 1] (Madry et al., 2018).

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, 8/255 in the paper; for l2 the length of the whole perturbation.
        step_size: Length of a step, in the same unit.
        steps: Number of steps; 0 only perturbs at random.
        random_start: Whether to start at a random point of the ball rather than at the image.
        draws: Draws of the noise over which each step's gradient is averaged; more than 1 makes it EOT-PGD.
        at_once: Draws per forward pass; more than 1 only if each image of a batch has draws of its own.
        restarts: Number of runs from random points; for each image, the result with the largest margin of a wrong class
            is kept, averaged over as many draws as a step, but at least
            :data:`~perturbify.attacks.attack.COMPARING_DRAWS`.
        norm: ``"linf"`` or ``"l2"``.

    Raises:
        ValueError: A setting is outside its range.
    """

    epsilon: float = 8 / 255
    step_size: float = 0.01
    steps: int = 7
    random_start: bool = True
    draws: int = 1
    at_once: int = 1
    restarts: int = 1
    norm: Literal["linf", "l2"] = "linf"

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon)
        if not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise ValueError(f"step_size must be finite and at least 0, not {self.step_size}")
        if self.steps < 0 or min(self.draws, self.at_once, self.restarts) < 1:
            raise ValueError(
                f"steps must be at least 0 and draws, at_once and restarts at least 1, not {self.steps}, {self.draws}, "
                f"{self.at_once} and {self.restarts}"
            )

    @property
    def role(self) -> Role:
        """``"one step"`` for a single step from the image itself (FGSM), else ``"white box"``."""
        return "one step" if self.steps == 1 and not self.random_start else "white box"

    @property
    def passes(self) -> Passes:
        """Cost per image."""
        compared = max(self.draws, COMPARING_DRAWS) if self.restarts > 1 else 0
        return Passes(1 + self.restarts * compared, self.restarts * self.steps * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where one more draw is wrong, as libraries do."""
        images = pgd(model, x, y, self)
        with frozen_eval(model), torch.no_grad():
            return Crafted(images, wrong(model, images, y))


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255) -> Tensor:
    """One step of length ε along the sign of the gradient, from the image itself (Goodfellow et al., 2015).

    Args and result as for :func:`pgd`.
    """
    return pgd(model, x, y, Pgd(epsilon, step_size=epsilon, steps=1, random_start=False))


def pgd(model: nn.Module, x: Tensor, y: Tensor, attack: Pgd = Pgd()) -> Tensor:
    """Runs projected gradient ascent and returns only the images, as training needs them.

    The network runs in eval mode with its noise as it is; its modes, buffers and gradients are restored afterwards,
    even after an error. Random numbers come from torch's global generator.

    Args:
        model: A classifier that takes pixels in [0, 1].
        x: Images, shape (N, C, H, W), in [0, 1].
        y: True labels, shape (N,), int64.
        attack: Radius, steps, start, and draws of the noise per step.

    Returns:
        Adversarial images in the shape and dtype of ``x``, detached, within ε of ``x`` (up to rounding in its dtype)
        and within [0, 1].

    Raises:
        ModelError: The network's output does not depend on the images in a way that autograd sees.
    """
    x = x.detach()
    with frozen_eval(model):
        if attack.restarts == 1:
            return _ascend(model, x, y, attack)
        best = Best(model, x, y, max(attack.draws, COMPARING_DRAWS))
        for _ in range(attack.restarts):
            best.offer(_ascend(model, x, y, attack))
        return best.images


def _ascend(model: nn.Module, x: Tensor, y: Tensor, attack: Pgd) -> Tensor:
    inside = ball(attack.norm, x, attack.epsilon)
    images = inside.anywhere() if attack.random_start else x
    for _ in range(attack.steps):
        gradient = input_gradient(model, images, y, draws=attack.draws, at_once=attack.at_once, finite=True)
        images = inside.project(images + attack.step_size * inside.steepest(gradient))
    return images
