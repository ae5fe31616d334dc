"""A table or figure of a paper: its cells as printed, and what a check needs for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A figure in percent, as the paper prints it.

    Attributes:
        text: Such as ``"51.13±0.08"``; the number after ± is the paper's spread over repeats.
    """

    text: str

    @property
    def value(self) -> float:
        """The figure, in [0, 1]."""
        return _share(self.text.partition("±")[0])

    @property
    def spread(self) -> float | None:
        """The number after ±, in [0, 1]; None if there is none."""
        spread = self.text.partition("±")[2]
        return _share(spread) if spread else None


Figures = Mapping[str, Cell]
"""Cells by attack: ``"clean"``, ``"PGD"``, ``"FGSM"``, ``"C&W, κ = 0"``, ``"EOT-PGD"``."""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper, or what its text says about an attack.

    Attributes:
        name: Its name in commands.
        called: Its name in the paper.
        caption: What it shows.
        attacks: Names of the attacks that a check needs for it, and ``margin``, for a worst case.
        stated: The attacks that the paper has a column or a curve for, whether or not its figures are available.
        figures: The paper's figures for each network and method, in the paper's order.
        remarks: What a reader must know about the paper's figures, a sentence or two each.
        curve: The attack that is drawn against ε, ``"FGSM"`` or ``"PGD"``; None: there is no curve.
        long: Whether each attack has a line of its own; otherwise a column.
        eot_draws: Draws per step of the paper's EOT-PGD; None: the recipe's.
        surrogate: The method on whose network images are crafted for the others; None: there is none.
    """

    name: str
    called: str
    caption: str
    attacks: tuple[str, ...]
    stated: tuple[str, ...]
    figures: Mapping[tuple[str, str], Figures]
    remarks: tuple[str, ...] = ()
    curve: str | None = None
    long: bool = False
    eot_draws: int | None = None
    surrogate: str | None = None

    @property
    def networks(self) -> tuple[str, ...]:
        """Its networks, by their names in the zoo."""
        return tuple(dict.fromkeys(network for network, _ in self.figures))

    @property
    def methods(self) -> tuple[str, ...]:
        """Its defences, as :mod:`perturbify.methods` knows them."""
        return tuple(dict.fromkeys(method for _, method in self.figures))


def _share(percent: str) -> float:
    return round(float(percent) / 100, 6)
