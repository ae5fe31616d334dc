"""The l∞ and l2 balls around images, within [0, 1]: the points that an attack may reach."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Ball(Protocol):
    """The ball around each image of a batch; images and gradients have the shape of that batch."""

    def anywhere(self) -> Tensor:
        """Points drawn uniformly from the ball, then clipped to [0, 1]."""
        ...

    def project(self, images: Tensor) -> Tensor:
        """Projects points onto the ball."""
        ...

    def steepest(self, gradient: Tensor) -> Tensor:
        """The unit step most aligned with a gradient; non-finite entries count as 0 or as the largest number."""
        ...


def ball(norm: str, x: Tensor, epsilon: float) -> Ball:
    """The ball of a norm, ``"linf"`` or ``"l2"``, and of radius ε around ``x``."""
    return _Box(x, epsilon) if norm == "linf" else _Sphere(x, epsilon)


def per_image(numbers: Tensor, like: Tensor) -> Tensor:
    """Per-image numbers, shape (N,), reshaped to broadcast with the images."""
    return numbers.view(-1, *[1] * (like.dim() - 1))


class _Box:
    def __init__(self, x: Tensor, epsilon: float) -> None:
        self._x, self._epsilon = x, epsilon
        self._low, self._high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)

    def anywhere(self) -> Tensor:
        return self.project(self._x + torch.empty_like(self._x).uniform_(-self._epsilon, self._epsilon))

    def project(self, images: Tensor) -> Tensor:
        return torch.clamp(images, self._low, self._high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.nan_to_num().sign()


class _Sphere:
    def __init__(self, x: Tensor, epsilon: float) -> None:
        self._x, self._epsilon = x, epsilon

    def anywhere(self) -> Tensor:
        radius = torch.rand(len(self._x), device=self._x.device, dtype=self._x.dtype) ** (1 / self._x[0].numel())
        return self.project(self._x + self._epsilon * per_image(radius, self._x) * _unit(torch.randn_like(self._x)))

    def project(self, images: Tensor) -> Tensor:
        change = images - self._x
        shrink = (self._epsilon / _length(change).clamp(min=1e-12)).clamp(max=1)
        return (self._x + shrink * change).clamp(0, 1)  # clamping last moves towards x, so it stays inside the ball

    def steepest(self, gradient: Tensor) -> Tensor:
        return _unit(gradient)


def _unit(v: Tensor) -> Tensor:
    # Scaled first: squares of small gradients would underflow, those of large ones overflow.
    v = v.nan_to_num()
    v = v / per_image(v.abs().flatten(1).amax(1), v).clamp(min=torch.finfo(v.dtype).tiny)
    return v / _length(v).clamp(min=1e-12)


def _length(v: Tensor) -> Tensor:
    return per_image(v.flatten(1).norm(dim=1), v)
