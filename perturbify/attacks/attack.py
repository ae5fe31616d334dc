"""The interface of an attack, and its result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from perturbify.attacks.losses import margin

Norm = Literal["linf", "l2", "l0"]
Role = Literal["one step", "white box", "black box"]
Need = Literal["gradients", "3 classes", "4 classes", "foolbox"]

COMPARING_DRAWS = 10
"""Minimum number of draws to compare an attack's candidates for an image: with one draw, the luckiest would win."""

SETTLING_DRAWS = 20
"""Minimum number of draws to settle an image of a random network: once all are wrong, there is nothing left to gain."""


def check_ball(norm: str, epsilon: float) -> None:
    """Refuses anything but an l∞ or l2 ball around images in [0, 1].

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: Radius: for l∞ in pixels, in [0, 1]; for l2 the length of the whole perturbation, at least 0.

    Raises:
        ValueError: The norm is another one, or the radius is out of range.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f'norm must be "linf" or "l2", not {norm!r}')
    if not (math.isfinite(epsilon) and epsilon >= 0) or (norm == "linf" and epsilon > 1):
        bounds = "in [0, 1]" if norm == "linf" else "finite and at least 0"
        raise ValueError(f"epsilon must be {bounds}, not {epsilon}")


@dataclass(frozen=True)
class Crafted:
    """The result of attacking a batch.

    Attributes:
        images: Adversarial images in the shape and dtype of the originals, in [0, 1], detached.
        fooled: Shape (N,), bool: where the attack itself claims success, on whichever draws it saw. To be reported next
            to the accuracy on fresh draws, not instead of it.
    """

    images: Tensor
    fooled: Tensor


@dataclass(frozen=True)
class Passes:
    """Cost of an attack per image, to estimate its run time.

    Attributes:
        forward: Forward passes without a gradient.
        gradient: Forward passes with a backward pass.
    """

    forward: float
    gradient: float


class Attack(Protocol):
    """An attack on a classifier of pixels in [0, 1].

    A frozen dataclass: its fields are its settings, as listed in the report. The network's noise stays as it is during
    the attack. Random numbers come only from torch's global generators, so the caller's seed makes it reproducible.
    Modes, buffers, ``requires_grad``, ``.grad`` and hooks of the network are restored afterwards, even after an error.

    Two more attributes are optional: its role in a check (:func:`role_of`), and its requirements (:func:`needs_of`).
    """

    @property
    def norm(self) -> Norm:
        """The norm in which perturbations are small."""
        ...

    @property
    def epsilon(self) -> float | None:
        """Bound on that norm; None if the attack minimises the perturbation instead."""
        ...

    @property
    def passes(self) -> Passes:
        """Cost per image."""
        ...

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch.

        Args:
            model: A classifier that takes pixels in [0, 1].
            x: Images, shape (N, C, H, W), in [0, 1].
            y: True labels, shape (N,), int64.

        Raises:
            ModelError: The attack needs gradients, and the network has none with respect to its images.
            CheckError: The attack is from a library that is not installed.
        """
        ...


def role_of(attack: Attack) -> Role:
    """An attack's ``role``; by default ``"white box"`` if its cost includes gradients, else ``"black box"``."""
    role: Role | None = getattr(attack, "role", None)
    return role if role is not None else "white box" if attack.passes.gradient > 0 else "black box"


def needs_of(attack: Attack) -> frozenset[Need]:
    """An attack's requirements: its attribute ``needs``; by default ``"gradients"`` if its cost includes any.

    ``"3 classes"`` and ``"4 classes"`` are minimum numbers of classes; ``"foolbox"`` is an optional library.
    """
    needs: frozenset[Need] | None = getattr(attack, "needs", None)
    return needs if needs is not None else frozenset({"gradients"} if attack.passes.gradient > 0 else ())


@torch.no_grad()
def wrong(model: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    """Where one more forward pass is wrong, shape (N,), bool; NaN logits count as wrong."""
    logits = model(images)
    return (logits.argmax(1) != y) | margin(logits, y).isposinf()
