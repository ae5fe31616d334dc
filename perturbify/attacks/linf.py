"""FGSM, PGD and EOT-PGD inside an l∞ ball."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perturbify.attacks.gradient import frozen_modes, input_gradient


@dataclass(frozen=True)
class Linf:
    """An l∞ attack on pixels in [0, 1].

    Attributes:
        epsilon: Radius of the ball in pixels, in [0, 1]; 8/255 in the paper.
        step_size: Length of a step in pixels.
        steps: Number of steps; 0 only perturbs at random.
        random_start: Whether to start at a random point of the ball rather than at the image.
        draws: Draws of the noise that each step's gradient is averaged over; more than 1 makes it EOT-PGD.

    Raises:
        ValueError: A setting is outside its range.
    """

    epsilon: float = 8 / 255
    step_size: float = 0.01
    steps: int = 7
    random_start: bool = True
    draws: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and 0 <= self.epsilon <= 1):
            raise ValueError(f"epsilon is a radius in pixels of [0, 1], not {self.epsilon}")
        if not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise ValueError(f"step_size must not be negative, not {self.step_size}")
        if self.steps < 0 or self.draws < 1:
            raise ValueError(f"steps must be at least 0 and draws at least 1, not {self.steps} and {self.draws}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Attacks a batch; see :func:`pgd`."""
        return pgd(model, x, y, self)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float = 8 / 255) -> Tensor:
    """One step of length ε along the sign of the gradient, from the image itself (Goodfellow et al., 2015).

    Args and result as for :func:`pgd`.
    """
    return pgd(model, x, y, Linf(epsilon, step_size=epsilon, steps=1, random_start=False))


def pgd(model: nn.Module, x: Tensor, y: Tensor, attack: Linf = Linf()) -> Tensor:
    """Projected gradient ascent on the cross-entropy inside an l∞ ball (Madry et al., 2018).

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
    adversarial = x = x.detach()
    low, high = (x - attack.epsilon).clamp(min=0), (x + attack.epsilon).clamp(max=1)
    if attack.random_start:
        adversarial = adversarial + torch.empty_like(x).uniform_(-attack.epsilon, attack.epsilon)
        adversarial = torch.clamp(adversarial, low, high)
    with frozen_modes(model):
        for _ in range(attack.steps):
            step = attack.step_size * input_gradient(model, adversarial, y, draws=attack.draws).sign()
            adversarial = torch.clamp(adversarial + step, low, high)
    return adversarial
