"""The figures of the Learn2Perturb paper (CVPR 2020), tables 1 to 3, as METHODS.md, section 4, collects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from perturbify.errors import PerturbifyError, nearest

NETWORKS = {
    "cifar_resnet20": "ResNet-V1(20)",
    "cifar_resnet56": "ResNet-V1(56)",
    "cifar_resnet18": "ResNet-V2(18)",
}
"""The paper's networks, by their names in the zoo."""

CONFIDENCES = (0.0, 0.1, 1.0, 2.0, 5.0)
"""κ of Carlini and Wagner's attack in table 3."""

EOT_DRAWS = 80
"""Draws a step of the paper's EOT-PGD."""

TRAINING_IMAGES, TEST_IMAGES = 50_000, 10_000
"""Of CIFAR-10."""

Figures = Mapping[str, float]
"""Accuracy by attack, in percent: ``"clean"``, ``"PGD"``, ``"FGSM"``, ``"C&W, κ = 0"``, ``"EOT-PGD"``."""


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        name: ``"table1"``, ``"table2"`` or ``"table3"``.
        caption: What it shows.
        attacks: Names of the attacks that a check needs for it, and ``margin``, for a worst case.
        figures: The paper's figures for each network and method, in the paper's order.
    """

    name: str
    caption: str
    attacks: tuple[str, ...]
    figures: Mapping[tuple[str, str], Figures]

    @property
    def networks(self) -> tuple[str, ...]:
        """Its networks, by their names in the zoo."""
        return tuple(dict.fromkeys(network for network, _ in self.figures))

    @property
    def methods(self) -> tuple[str, ...]:
        """Its defences, as :mod:`perturbify.methods` knows them."""
        return tuple(dict.fromkeys(method for _, method in self.figures))


def table(name: str) -> Table:
    """Looks a table up.

    Raises:
        PerturbifyError: There is none of that name.
    """
    if name not in TABLES:
        raise PerturbifyError(
            f"There is no table {name!r}.", nearest(name, TABLES) or f"There are {', '.join(TABLES)}."
        )
    return TABLES[name]


def _accuracies(methods: tuple[str, ...], rows: tuple[tuple[float, ...], ...]) -> dict[tuple[str, str], Figures]:
    """One row a network, and in it clean, PGD and FGSM of each method in turn."""
    cells = (row[i : i + 3] for row in rows for i in range(0, len(row), 3))
    return {
        pair: dict(zip(("clean", "PGD", "FGSM"), cell, strict=True))
        for pair, cell in zip(product(NETWORKS, methods), cells, strict=True)
    }


def _survivors(rows: Mapping[str, tuple[float, ...]]) -> dict[tuple[str, str], Figures]:
    """Of each method, what survives C&W at each κ, and the accuracy under EOT-PGD."""
    attacks = (*(f"C&W, κ = {confidence:g}" for confidence in CONFIDENCES), "EOT-PGD")
    return {("cifar_resnet18", method): dict(zip(attacks, row, strict=True)) for method, row in rows.items()}


TABLES = {
    "table1": Table(
        "table1",
        "without defence, with PGD training, and with learned perturbations",
        ("fgsm", "pgd", "margin", "eot"),
        _accuracies(
            ("none", "vanilla", "learn2perturb-r", "learn2perturb"),
            (
                (92.10, 0.0, 14.10, 83.80, 39.10, 46.60, 81.15, 50.23, 55.89, 83.62, 51.13, 58.41),
                (93.30, 0.0, 24.20, 86.50, 40.10, 48.80, 82.35, 53.30, 58.71, 84.82, 54.84, 61.53),
                (95.20, 0.1, 43.10, 85.46, 43.90, 52.50, 82.46, 53.33, 59.09, 85.30, 56.06, 62.43),
            ),
        ),
    ),
    "table2": Table(
        "table2",
        "other defences by noise",
        ("fgsm", "pgd", "margin", "eot"),
        _accuracies(
            ("pni", "adv-bnn"),
            (
                (84.90, 45.90, 54.50, 65.76, 44.95, 51.58),
                (86.80, 46.30, 53.90, 77.20, 54.62, 57.88),
                (87.21, 49.42, 58.06, 82.15, 53.62, 60.04),
            ),
        ),
    ),
    "table3": Table(
        "table3",
        "what survives C&W, and EOT-PGD with 80 draws a step",
        ("margin", "cw", "eot"),
        _survivors(
            {
                "pni": (66.9, 66.1, 34.0, 16.0, 0.8, 48.65),
                "adv-bnn": (78.9, 78.1, 65.1, 49.1, 16.0, 51.19),
                "learn2perturb": (83.6, 84.0, 76.4, 66.5, 34.8, 53.34),
            }
        ),
    ),
}
"""The tables. METHODS.md does not name the network of table 3: its EOT figures lie just below the PGD figures of
ResNet-V2(18), and above or far from those of the others."""
