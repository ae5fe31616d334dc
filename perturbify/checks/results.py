"""What attacks left, image by image: the one form in which checks, comparisons and reproductions keep it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np

from perturbify.checks.statistics import Right, Shares, mean_interval, shares_interval
from perturbify.display import accuracy, fitted

Role = Literal[
    "clean",
    "one step",
    "white box",
    "longer",
    "black box",
    "frozen",
    "unbounded",
    "sweep",
    "other",
]
"""What an attack is for, as the criteria ask for it."""

On = Literal["itself", "twin", "frozen", "known", "other"]
"""What images are crafted on: the network as it is, its deterministic twin (the noise off), fixed realisations of the
noise, one that the attacker knows and that answers, too, or another network."""


@dataclass(frozen=True)
class Figure:
    """A share in [0, 1], or a difference of two, with its 95% interval."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, right: Right, *, shared: bool = False) -> Figure:
        """The mean of answers.

        Args:
            right: For each image and draw, whether the answer was right; shape (n, K), bool.
            shared: Whether the images of a draw had it in common.
        """
        return cls(float(right.mean()), mean_interval(right, shared=shared))

    @classmethod
    def of_shares(cls, shares: Shares) -> Figure:
        """The mean of values that images have in [0, 1]; shape (n,)."""
        return cls(float(shares.mean()), shares_interval(shares))


@dataclass(frozen=True)
class Answers:
    """Which answers were right, in a form that JSON takes.

    Attributes:
        n: Images.
        draws: Answers for each.
        bits: One bit an answer, image by image, packed and in base64.
    """

    n: int
    draws: int
    bits: str = field(repr=False)

    @classmethod
    def of(cls, right: Right) -> Answers:
        """Packs a matrix of shape (n, draws), bool."""
        n, draws = right.shape
        return cls(n, draws, base64.b64encode(np.packbits(right).tobytes()).decode("ascii"))

    @cached_property
    def right(self) -> Right:
        """The matrix, shape (n, draws), bool."""
        packed = np.frombuffer(base64.b64decode(self.bits, validate=True), np.uint8)
        if min(self.n, self.draws) < 1 or len(packed) != -(-self.n * self.draws // 8):
            raise ValueError(f"{len(packed)} bytes are not {self.draws} answers for each of {self.n} images")
        bits = np.unpackbits(packed, count=self.n * self.draws).astype(bool)
        return bits.reshape(self.n, self.draws)


@dataclass(frozen=True)
class Point:
    """Where a result stands in a plot.

    Attributes:
        figure: ``"epsilon"`` (accuracy against ε), ``"draws"`` (against the draws that a step averages) or ``"steps"``.
        line: The curve it belongs to.
        x: Its abscissa: ε in pixels, draws, or steps.
    """

    figure: Literal["epsilon", "draws", "steps"]
    line: str
    x: float


@dataclass(frozen=True)
class Result:
    """What one attack left.

    Every figure but ``claimed`` is of fresh draws of the noise, none of which the attack has seen.

    Attributes:
        id: What tells it from all others of a check, such as ``"pgd"``.
        attack: Its name for people, such as ``"PGD-7"``; ``"clean"`` without one.
        role: What it is for.
        on: What it attacked.
        source: Name of the other network, where it attacked one; else None.
        noise: ``"on"`` or ``"off"`` while scoring.
        norm: ``"linf"``, ``"l2"``, ``"l0"``; None without an attack.
        epsilon: Bound of the perturbation in that norm, in pixels of [0, 1]; None where there is none.
        settings: All settings of the attack.
        answers: Of the first n images of the check, in their order.
        attacked: How many of them were attacked; on the others nothing was left to win after earlier attacks, and they
            count as wrong.
        shared: Whether the images of a batch had their draws in common.
        majority: Share of images where the class most frequent among the draws is the right one.
        survival: For N queries, the share of images that are right in all N of them.
        unperturbed: Share of the attacked images that the attack gave back as they were.
        claimed: Share of them where the attack holds that it succeeded; None without an attack.
        distance: Median length of the perturbations, by norm (``"linf"``, ``"l2"``).
        forward: Passes without a gradient that it spent on each image.
        gradient: Passes with one.
        seconds: Time for crafting and scoring.
        points: Where it stands in the plots.
        network: The network that was scored: ``"itself"``, or the name of one it is held against.
    """

    id: str
    attack: str
    role: Role
    on: On
    source: str | None
    noise: Literal["on", "off"]
    norm: str | None
    epsilon: float | None
    settings: dict[str, Any]
    answers: Answers
    attacked: int
    shared: bool
    majority: Figure
    survival: dict[int, Figure]
    unperturbed: float
    claimed: float | None
    distance: dict[str, float]
    forward: float
    gradient: float
    seconds: float
    points: tuple[Point, ...] = ()
    network: str = "itself"

    def __repr__(self) -> str:
        return fitted(
            f"Result: {self.attack}, noise {self.noise}, n = {self.n}: {accuracy(self.accuracy, self.interval)}"
        )

    @property
    def n(self) -> int:
        """Images."""
        return self.answers.n

    @property
    def draws(self) -> int:
        """Fresh draws that score each image; 1 where the network gives the same answer every time."""
        return self.answers.draws

    @property
    def right(self) -> Right:
        """For each image and draw, whether the answer was right; shape (n, draws), bool."""
        return self.answers.right

    @cached_property
    def figure(self) -> Figure:
        """Mean probability of being right."""
        return Figure.of(self.right, shared=self.shared)

    @property
    def accuracy(self) -> float:
        """Mean probability of being right, in [0, 1]."""
        return self.figure.value

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval over images, and over draws where images share them."""
        return self.figure.interval

    def within(self, epsilon: float) -> bool:
        """Whether it is an attack in the l∞ ball of that radius on the network as it is."""
        inside = self.norm == "linf" and self.epsilon is not None and self.epsilon <= epsilon + 1e-9
        return inside and self.on != "known"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; accuracy, interval, n and draws follow from the answers."""
        follows = {"n": self.n, "draws": self.draws, "accuracy": self.accuracy, "interval": list(self.interval)}
        return {"id": self.id, "attack": self.attack} | follows | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """Reads what :meth:`to_dict` made.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        kept: dict[str, Any] = {f.name: values[f.name] for f in fields(cls)}
        answers = Answers(**kept["answers"])
        _ = answers.right  # which fails where it is damaged
        return cls(
            **kept
            | {
                "answers": answers,
                "majority": figure_from(kept["majority"]),
                "survival": {int(q): figure_from(f) for q, f in kept["survival"].items()},
                "points": tuple(Point(**p) for p in kept["points"]),
            }
        )


def figure_from(values: Mapping[str, Any]) -> Figure:
    """Reads a figure's JSON values.

    Raises:
        KeyError, TypeError, ValueError: It is damaged.
    """
    low, high = values["interval"]
    return Figure(float(values["value"]), (float(low), float(high)))


@dataclass(frozen=True)
class Example:
    """An image before and after an attack, as PNG data URLs.

    Attributes:
        label: Its class.
        clean: The image.
        adversarial: The attacked image.
        difference: Ten times the difference, around grey.
        clean_answer: The class that most draws took the clean image for.
        answer: The class that most draws took the attacked one for.
        clean_accuracy: Share of the scoring draws that get the clean image right.
        accuracy: Share of them that get the attacked one right.
    """

    label: str
    clean: str = field(repr=False)
    adversarial: str = field(repr=False)
    difference: str = field(repr=False)
    clean_answer: str
    answer: str
    clean_accuracy: float = field(default=0.0)
    accuracy: float = field(default=0.0)
