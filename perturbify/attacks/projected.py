"""FGSM, PGD and EOT-PGD inside an l∞ or l2 ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.attacks.attack import COMPARING_DRAWS, Crafted, Passes, check_ball
from perturbify.attacks.gradient import attacked, input_gradient


@dataclass(frozen=True)
class Pgd:
    """Projected gradient ascent on the cross-entropy, on pixels in [0, 1] (Madry et al., 2018).

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, 8/255 in the paper; for l2 the length of the whole perturbation.
        step_size: Length of a step, in the same unit.
        steps: Number of steps; 0 only perturbs at random.
        random_start: Whether to start at a random point of the ball rather than at the image.
        draws: Draws of the noise that each step's gradient is averaged over; more than 1 makes it EOT-PGD.
        at_once: Draws in one forward; more than 1 only where every image of a batch has draws of its own.
        restarts: Runs from other random points; of each image the one with the greatest loss is kept, that loss
            averaged over as many draws as a step, but at least
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
            raise ValueError(f"step_size must not be negative, not {self.step_size}")
        if self.steps < 0 or min(self.draws, self.at_once, self.restarts) < 1:
            raise ValueError(
                f"steps must be at least 0, draws, at_once and restarts at least 1, not {self.steps}, {self.draws}, "
                f"{self.at_once} and {self.restarts}"
            )

    @property
    def passes(self) -> Passes:
        """Its cost."""
        compared = max(self.draws, COMPARING_DRAWS) if self.restarts > 1 else 0
        return Passes(1 + self.restarts * compared, self.restarts * self.steps * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; it holds that it succeeded where one more draw is wrong, as every library does."""
        images = pgd(model, x, y, self)
        with attacked(model), torch.no_grad():
            return Crafted(images, model(images).argmax(1) != y)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255) -> Tensor:
    """One step of length ε along the sign of the gradient, from the image itself (Goodfellow et al., 2015).

    Args and result as for :func:`pgd`.
    """
    return pgd(model, x, y, Pgd(epsilon, step_size=epsilon, steps=1, random_start=False))


def pgd(model: nn.Module, x: Tensor, y: Tensor, attack: Pgd = Pgd()) -> Tensor:
    """Runs projected gradient ascent and returns the images alone, as training needs them.

    The network runs in eval mode with its noise as it is; its modes, buffers and gradients are afterwards what they
    were, also after an error. Random numbers come from torch's global generator.

    Args:
        model: A classifier that takes pixels in [0, 1].
        x: Images, shape (N, C, H, W), in [0, 1].
        y: True labels, shape (N,), int64.
        attack: Radius, steps, start, and draws of the noise a step.

    Returns:
        Adversarial images in the shape and dtype of ``x``, detached, within ε of ``x`` (to the last digit of its
        dtype) and within [0, 1].

    Raises:
        ModelError: The network's output does not depend on the images in a way that autograd sees.
    """
    x = x.detach()
    with attacked(model):
        if attack.restarts == 1:
            return _ascend(model, x, y, attack)
        best, greatest = x, torch.full((len(x),), -math.inf, device=x.device)
        for _ in range(attack.restarts):
            images = _ascend(model, x, y, attack)
            loss = _mean_loss(model, images, y, max(attack.draws, COMPARING_DRAWS))
            better = ~(loss <= greatest) & ~greatest.isnan()  # NaN counts as the greatest
            best = torch.where(_spread(better, x), images, best)
            greatest = torch.where(better, loss, greatest)
        return best


def _ascend(model: nn.Module, x: Tensor, y: Tensor, attack: Pgd) -> Tensor:
    ball = (_Box if attack.norm == "linf" else _Sphere)(x, attack.epsilon)
    images = ball.anywhere() if attack.random_start else x
    for _ in range(attack.steps):
        direction = ball.steepest(input_gradient(model, images, y, draws=attack.draws, at_once=attack.at_once))
        images = ball.project(images + attack.step_size * direction)
    return images


class _Box:
    """The l∞ ball around images, within [0, 1]."""

    def __init__(self, x: Tensor, epsilon: float) -> None:
        self._x, self._epsilon = x, epsilon
        self._low, self._high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)

    def anywhere(self) -> Tensor:
        return self.project(self._x + torch.empty_like(self._x).uniform_(-self._epsilon, self._epsilon))

    def project(self, images: Tensor) -> Tensor:
        return torch.clamp(images, self._low, self._high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()


class _Sphere:
    """The l2 ball around images, within [0, 1]."""

    def __init__(self, x: Tensor, epsilon: float) -> None:
        self._x, self._epsilon = x, epsilon

    def anywhere(self) -> Tensor:
        radius = torch.rand(len(self._x), device=self._x.device, dtype=self._x.dtype) ** (1 / self._x[0].numel())
        return self.project(self._x + self._epsilon * _spread(radius, self._x) * _unit(torch.randn_like(self._x)))

    def project(self, images: Tensor) -> Tensor:
        change = images - self._x
        shrink = (self._epsilon / _length(change).clamp(min=1e-12)).clamp(max=1)
        return (self._x + shrink * change).clamp(0, 1)  # clamped last: towards x, so it stays inside of the ball

    def steepest(self, gradient: Tensor) -> Tensor:
        return _unit(gradient)


def _unit(v: Tensor) -> Tensor:
    # Scaled first: the squares of small gradients would vanish, those of large ones overflow.
    v = v.nan_to_num()
    v = v / _spread(v.abs().flatten(1).amax(1), v).clamp(min=torch.finfo(v.dtype).tiny)
    return v / _length(v).clamp(min=1e-12)


def _length(v: Tensor) -> Tensor:
    return _spread(v.flatten(1).norm(dim=1), v)


def _spread(per_image: Tensor, like: Tensor) -> Tensor:
    return per_image.view(-1, *[1] * (like.dim() - 1))


@torch.no_grad()
def _mean_loss(model: nn.Module, x: Tensor, y: Tensor, draws: int) -> Tensor:
    losses = [F.cross_entropy(model(x), y, reduction="none").float() for _ in range(draws)]
    return torch.stack(losses).mean(0)
