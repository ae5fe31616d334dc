"""The results of attacks, image by image, in the one form that checks, comparisons and reproductions use."""

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
"""The purpose of an attack, by which the criteria select it."""

On = Literal["itself", "twin", "frozen", "known", "other"]
"""What images are crafted on: the network itself, its deterministic twin (noise off), fixed realisations of the noise,
one realisation that the attacker knows and that is scored, or another network."""


@dataclass(frozen=True)
class Figure:
    """A share in [0, 1], or a difference of two, with its 95% interval."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, right: Right, *, shared: bool = False, runs: int = 1) -> Figure:
        """The mean of the answers.

        Args:
            right: For each image and draw, whether the answer was right; shape (n, K), bool.
            shared: Whether images shared their draws.
            runs: As for :func:`~perturbify.checks.statistics.mean_interval`.
        """
        return cls(float(right.mean()), mean_interval(right, shared=shared, runs=runs))

    @classmethod
    def of_shares(cls, shares: Shares) -> Figure:
        """The mean of one value in [0, 1] per image; shape (n,)."""
        return cls(float(shares.mean()), shares_interval(shares))


@dataclass(frozen=True)
class Answers:
    """Which answers were right, packed for JSON.

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
    """A result's place in a plot.

    Attributes:
        figure: ``"epsilon"`` (accuracy against ε), ``"draws"`` (against the draws that a step averages) or ``"steps"``.
        line: Its curve.
        x: ε in pixels, draws, or steps.
    """

    figure: Literal["epsilon", "draws", "steps"]
    line: str
    x: float


@dataclass(frozen=True)
class Result:
    """The result of one attack.

    Every figure but ``claimed`` is measured on fresh draws of the noise, none of which the attack has seen.

    Attributes:
        id: Unique in a check, such as ``"pgd"``.
        attack: Its display name, such as ``"PGD-7"``; ``"clean"`` without an attack.
        role: Its purpose.
        on: What it was crafted on.
        source: Name of the other network, if it was crafted on one; else None.
        noise: ``"on"`` or ``"off"`` while scoring.
        norm: ``"linf"``, ``"l2"``, ``"l0"``; None without an attack.
        epsilon: Bound of the perturbation in that norm, in pixels of [0, 1]; None where there is none.
        settings: All settings of the attack.
        answers: The answers for the first n images of the check, in order.
        attacked: How many of them were attacked; the others were lost to earlier attacks and count as wrong.
        shared: Whether the images of a batch shared their draws.
        majority: Share of images whose most frequent class among the draws is the right one.
        survival: For N queries, the share of images that are right in all N of them.
        unperturbed: Share of the attacked images that the attack returned unchanged.
        claimed: Share of them for which the attack reports success; None without an attack.
        distance: Median length of the perturbations, by norm (``"linf"``, ``"l2"``).
        forward: Passes without a gradient per image.
        gradient: Passes with a gradient per image.
        seconds: Time for crafting and scoring.
        points: Its points in the plots.
        network: The network that was scored: ``"itself"``, or the name of the baseline.
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
        """Fresh draws that score each image; 1 for a deterministic network."""
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
        """Whether it is an attack in the l∞ ball of that radius on the network itself."""
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
        _ = answers.right  # which raises if it is damaged
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
        label: The name of its class.
        clean: The image.
        adversarial: The attacked image.
        difference: Ten times the difference, around grey.
        clean_answer: The class that most draws predicted for the clean image.
        answer: The class that most draws predicted for the attacked one.
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
