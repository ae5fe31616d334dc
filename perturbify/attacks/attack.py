"""What an attack is, and what it hands over."""

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
"""Draws at least that compare what an attack found for an image: by one, the luckiest would win."""

SETTLING_DRAWS = 20
"""Draws at least that settle an image of a random network: where all of them are wrong, nothing is left to win."""


def check_ball(norm: str, epsilon: float) -> None:
    """Refuses what is no l∞ or l2 ball around images in [0, 1].

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: Radius: for l∞ in pixels, in [0, 1]; for l2 the length of the whole perturbation, at least 0.

    Raises:
        ValueError: They are not.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f'norm is "linf" or "l2", not {norm!r}')
    if not (math.isfinite(epsilon) and epsilon >= 0) or (norm == "linf" and epsilon > 1):
        unit = "in pixels of [0, 1]" if norm == "linf" else "a length of at least 0"
        raise ValueError(f"epsilon is a radius, {unit}, not {epsilon}")


@dataclass(frozen=True)
class Crafted:
    """What an attack made of a batch.

    Attributes:
        images: Adversarial images in the shape and dtype of the originals, in [0, 1], detached.
        fooled: Shape (N,), bool: where the attack itself holds that it succeeded, by whatever draws it saw. To be
            reported beside the accuracy on fresh draws, not instead of it.
    """

    images: Tensor
    fooled: Tensor


@dataclass(frozen=True)
class Passes:
    """What an attack costs for each image, to estimate its time.

    Attributes:
        forward: Passes without a gradient.
        gradient: Passes forward and backward.
    """

    forward: float
    gradient: float


class Attack(Protocol):
    """An attack on a classifier of pixels in [0, 1].

    A frozen dataclass: its fields are its settings, as the report lists them. The network keeps its noise as it is
    while it is attacked. Random numbers come from torch's global generators alone, so that a seed set by the caller
    decides everything. Modes, buffers, ``requires_grad``, ``.grad`` and hooks of the network are afterwards what they
    were, also after an error.

    It may have two more attributes, with defaults where it has none: what it is among the attacks of a check
    (:func:`role_of`), and what it needs (:func:`needs_of`).
    """

    @property
    def norm(self) -> Norm:
        """The norm in which perturbations are small."""
        ...

    @property
    def epsilon(self) -> float | None:
        """Bound on that norm; None where the attack looks for the smallest perturbation instead."""
        ...

    @property
    def passes(self) -> Passes:
        """Its cost."""
        ...

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch.

        Args:
            model: A classifier that takes pixels in [0, 1].
            x: Images, shape (N, C, H, W), in [0, 1].
            y: True labels, shape (N,), int64.

        Raises:
            ModelError: It follows the gradient, and the network gives none for its images.
            CheckError: It is a library's, and the library is not installed.
        """
        ...


def role_of(attack: Attack) -> Role:
    """What an attack is: its attribute ``role``, or ``"white box"`` where its cost has gradients, else black box."""
    role: Role | None = getattr(attack, "role", None)
    return role if role is not None else "white box" if attack.passes.gradient > 0 else "black box"


def needs_of(attack: Attack) -> frozenset[Need]:
    """What an attack cannot do without: its attribute ``needs``, or ``"gradients"`` where its cost has some.

    ``"3 classes"`` and ``"4 classes"`` are numbers of classes at least; ``"foolbox"`` is a library that is no
    dependency.
    """
    needs: frozenset[Need] | None = getattr(attack, "needs", None)
    return needs if needs is not None else frozenset({"gradients"} if attack.passes.gradient > 0 else ())


@torch.no_grad()
def wrong(model: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    """Where one more forward is wrong, shape (N,), bool; logits that are NaN are."""
    logits = model(images)
    return (logits.argmax(1) != y) | margin(logits, y).isposinf()
