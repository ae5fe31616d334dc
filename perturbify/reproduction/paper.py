"""Every figure of the Learn2Perturb paper (CVPR 2020), as printed there, with remarks on odd ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from perturbify.errors import PerturbifyError, nearest
from perturbify.reproduction.table import Cell, Figures, Table

NETWORKS = {
    "cifar_resnet20": "ResNet-V1(20)",
    "cifar_resnet32": "ResNet-V1(32)",
    "cifar_resnet44": "ResNet-V1(44)",
    "cifar_resnet56": "ResNet-V1(56)",
    "cifar_resnet20_x1.5": "ResNet-V1(20) ×1.5",
    "cifar_resnet20_x2": "ResNet-V1(20) ×2",
    "cifar_resnet20_x4": "ResNet-V1(20) ×4",
    "cifar_resnet18": "ResNet-V2(18)",
    "cifar_resnext29_2x64d": "ResNeXt-29 (2×64d)",
    "cifar_wrn28_10": "WRN-28-10",
}
"""The paper's networks, by their names in the zoo."""

CONFIDENCES = (0.0, 0.1, 1.0, 2.0, 5.0)
"""κ of Carlini and Wagner's attack in table 3."""

EOT_DRAWS = 80
"""Draws a step of the paper's EOT-PGD."""

SWEEP = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""The further ε of figures 2 and 3, as multiples of the recipe's. The paper's axis is not stated in numbers."""

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
"""The paper's datasets, by their names here; only the first one's figures are available."""

TRAINING_IMAGES, TEST_IMAGES = 50_000, 10_000
"""Of either."""

RELEASED = ("none", "vanilla", "learn2perturb-r", "learn2perturb")
"""The methods whose schedules are those of the authors' release; the others have those of their own papers."""

RECIPES = {"learn2perturb": "cifar10"}
"""Recipes not named after their method."""


def recipe_name(method: str) -> str:
    """The name of a method's own recipe for CIFAR-10."""
    return RECIPES.get(method, f"cifar10_{method.replace('-', '_')}")


def table(name: str) -> Table:
    """Looks up a table or figure.

    Raises:
        PerturbifyError: There is none of that name.
    """
    if name not in TABLES:
        raise PerturbifyError(
            f"There is no table {name!r}.", nearest(name, TABLES) or f"There are {', '.join(TABLES)}."
        )
    return TABLES[name]


def check_known(paper: Table, kind: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """Makes sure that a table has the networks or methods that are asked for.

    Raises:
        PerturbifyError: It has not.
    """
    there = tuple(known)
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise PerturbifyError(f"There is no {kind} {unknown[0]!r} in {paper.name}.", f"There are {', '.join(there)}.")


ACCURACIES = ("clean", "PGD", "FGSM")
SURVIVAL = tuple(f"C&W, κ = {confidence:g}" for confidence in CONFIDENCES)
PIXELS = ("1 pixel", "2 pixels", "3 pixels")

_V2 = "cifar_resnet18"
_COMPARED = ("vanilla", "pni", "adv-bnn", "learn2perturb")
"""The methods of figures 2 and 3."""


def _rows(methods: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, str], Figures]:
    """One row per network, with ``clean / PGD / FGSM`` of each method in turn."""
    return {
        (network, method): _cells(ACCURACIES, cell.split(" / "))
        for network, cells in rows.items()
        for method, cell in zip(methods, cells, strict=True)
    }


def _survivors(rows: Mapping[str, tuple[str, str | None]]) -> dict[tuple[str, str], Figures]:
    """For each method what survives C&W at each κ, and the accuracy under EOT-PGD if there is one."""
    return {
        (_V2, method): _cells(SURVIVAL, survived.split()) | ({} if eot is None else _cells(("EOT-PGD",), [eot]))
        for method, (survived, eot) in rows.items()
    }


def _cells(attacks: Iterable[str], texts: Iterable[str]) -> dict[str, Cell]:
    return dict(zip(attacks, map(Cell, texts), strict=True))


def _without(networks: tuple[str, ...], methods: tuple[str, ...]) -> dict[tuple[str, str], Figures]:
    return {pair: {} for pair in product(networks, methods)}


_EOT = {"pni": "48.65", "adv-bnn": "51.19", "learn2perturb": "53.34"}

_VANILLA = "The paper's Vanilla figures are those of PNI's paper, which trained for 160 epochs, not 350."
_UNNAMED = (
    "The paper does not name the network of these figures. We take ResNet-V2(18), because the EOT figures are just "
    "below its PGD figures, and do not fit the other networks."
)
_V2_TWICE = "The paper has 56.06 for Learn2Perturb on ResNet-V2(18) under PGD in tables 1 and 2, and 56.3 in table 4."
_V1_TWICE = "The paper has 54.84 for Learn2Perturb on ResNet-V1(56) under PGD in table 1, and 54.62 in table 2."
_SHARED = "The 80 draws a step of the authors' release are identical: averaging does nothing. Ours are independent."
_FIGURE = (
    "The paper's figure has no numbers, so there are none to compare with. Its ε are not stated in numbers "
    "either; ours are multiples of the recipe's ε."
)

TABLES = {
    "table1": Table(
        "table1",
        "table 1",
        "without defence, with PGD training, and with learned perturbations",
        ("fgsm", "pgd", "margin", "eot"),
        ACCURACIES,
        _rows(
            RELEASED,
            {
                "cifar_resnet20": (
                    "92.10 / 0.0±0.0 / 14.10",
                    "83.80 / 39.10±0.10 / 46.60",
                    "81.15±0.02 / 50.23±0.14 / 55.89±0.04",
                    "83.62±0.02 / 51.13±0.08 / 58.41±0.07",
                ),
                "cifar_resnet56": (
                    "93.30 / 0.0±0.0 / 24.20",
                    "86.50 / 40.10±0.10 / 48.80",
                    "82.35±0.03 / 53.30±0.10 / 58.71±0.04",
                    "84.82±0.04 / 54.84±0.10 / 61.53±0.04",
                ),
                "cifar_resnet18": (
                    "95.20 / 0.1±0.0 / 43.10",
                    "85.46 / 43.90±0.00 / 52.50",
                    "82.46±0.17 / 53.33±0.12 / 59.09±0.17",
                    "85.30±0.09 / 56.06±0.16 / 62.43±0.06",
                ),
            },
        ),
        remarks=(_VANILLA, _V1_TWICE, _V2_TWICE),
    ),
    "table2": Table(
        "table2",
        "table 2",
        "other defences by noise, and learned perturbations",
        ("fgsm", "pgd", "margin", "eot"),
        ACCURACIES,
        _rows(
            ("pni", "adv-bnn", "learn2perturb"),
            {
                "cifar_resnet20": (
                    "84.90±0.1 / 45.90±0.1 / 54.50±0.4",
                    "65.76±5.92 / 44.95±1.21 / 51.58±1.49",
                    "83.62±0.02 / 51.13±0.08 / 58.41±0.07",
                ),
                "cifar_resnet32": (
                    "85.90±0.1 / 43.50±0.3 / 51.50±0.1",
                    "62.95±5.63 / 54.62±0.06 / 50.29±2.70",
                    "84.19±0.06 / 54.62±0.06 / 59.94±0.11",
                ),
                "cifar_resnet44": (
                    "84.70±0.2 / 48.50±0.2 / 55.80±0.1",
                    "76.87±0.24 / 54.62±0.06 / 58.55±0.49",
                    "85.61±0.01 / 54.62±0.06 / 61.32±0.13",
                ),
                "cifar_resnet56": (
                    "86.80±0.2 / 46.30±0.3 / 53.90±0.1",
                    "77.20±0.02 / 54.62±0.06 / 57.88±0.02",
                    "84.82±0.04 / 54.62±0.06 / 61.53±0.04",
                ),
                "cifar_resnet20_x1.5": (
                    "86.00±0.1 / 46.70±0.2 / 54.50±0.2",
                    "65.58±0.42 / 28.07±1.11 / 36.11±1.29",
                    "85.40±0.08 / 53.32±0.02 / 61.10±0.06",
                ),
                "cifar_resnet20_x2": (
                    "86.20±0.1 / 46.10±0.2 / 54.60±0.2",
                    "79.03±0.04 / 53.46±0.06 / 58.30±0.14",
                    "85.89±0.10 / 54.29±0.02 / 61.61±0.05",
                ),
                "cifar_resnet20_x4": (
                    "87.70±0.1 / 49.10±0.3 / 57.00±0.2",
                    "82.31±0.03 / 52.61±0.12 / 59.01±0.04",
                    "86.09±0.05 / 55.75±0.07 / 61.32±0.02",
                ),
                "cifar_resnet18": (
                    "87.21±0.0 / 49.42±0.01 / 58.06±0.02",
                    "82.15±0.06 / 53.62±0.06 / 60.04±0.01",
                    "85.30±0.09 / 56.06±0.08 / 62.43±0.06",
                ),
            },
        ),
        remarks=(
            "54.62±0.06 appears in six of the paper's cells: PGD of Adv-BNN and of Learn2Perturb on ResNet-V1(32), "
            "(44) and (56).",
            "The paper's Adv-BNN on ResNet-V1(32) is more accurate under PGD (54.62) than under FGSM (50.29).",
            _V1_TWICE,
            _V2_TWICE,
        ),
    ),
    "table3": Table(
        "table3",
        "table 3",
        "what survives C&W, and EOT-PGD with 80 draws a step",
        ("margin", "cw", "eot"),
        (*SURVIVAL, "EOT-PGD"),
        _survivors(
            {
                "none": ("0.0 0.0 0.0 0.0 0.0", None),
                "vanilla": ("0.0 0.0 0.0 0.0 0.0", None),
                "pni": ("66.9 66.1 34.0 16.0 0.8", _EOT["pni"]),
                "adv-bnn": ("78.9 78.1 65.1 49.1 16.0", _EOT["adv-bnn"]),
                "learn2perturb": ("83.6 84.0 76.4 66.5 34.8", _EOT["learn2perturb"]),
            }
        ),
        remarks=(_UNNAMED, _SHARED),
        long=True,
        eot_draws=EOT_DRAWS,
    ),
    "table4": Table(
        "table4",
        "table 4",
        "defences of the time, each on the network that its figures were published for",
        ("pgd", "margin", "eot"),
        ("clean", "PGD"),
        {
            ("cifar_resnext29_2x64d", "rse"): _cells(("clean", "PGD"), ("87.5", "40")),
            ("cifar_wrn28_10", "pixeldp"): _cells(("clean", "PGD"), ("87", "25")),
            ("cifar_resnet56", "adv-bnn"): _cells(("clean", "PGD"), ("77.20", "54.62±0.06")),
            ("cifar_resnet20_x4", "vanilla"): _cells(("clean", "PGD"), ("87", "46.1±0.1")),
            ("cifar_resnet20_x4", "pni"): _cells(("clean", "PGD"), ("87.7±0.1", "49.1±0.3")),
            (_V2, "learn2perturb"): _cells(("clean", "PGD"), ("85.3±0.1", "56.3±0.1")),
        },
        remarks=(
            "The paper says “ResNext” without its width; RSE's release has a ResNeXt-29 of 2×64d, as does this row, "
            "with a 3×3 stem where RSE's is 1×1.",
            "54.62±0.06 for Adv-BNN on ResNet-V1(56) is one of six such cells in the paper's table 2.",
            _V2_TWICE,
        ),
    ),
    "fig2": Table(
        "fig2",
        "figure 2",
        "accuracy against ε under FGSM",
        ("fgsm", "pgd", "margin", "eot", "sweep"),
        ("FGSM",),
        _without((_V2,), _COMPARED),
        remarks=(_FIGURE,),
        curve="FGSM",
    ),
    "fig3": Table(
        "fig3",
        "figure 3",
        "accuracy against ε under PGD",
        ("fgsm", "pgd", "margin", "eot", "sweep"),
        ("PGD",),
        _without((_V2,), _COMPARED),
        remarks=(_FIGURE,),
        curve="PGD",
    ),
    "eot": Table(
        "eot",
        "section 4",
        "EOT-PGD with 80 independent draws a step",
        ("pgd", "margin", "eot"),
        ("EOT-PGD",),
        {(_V2, method): _cells(("EOT-PGD",), [figure]) for method, figure in _EOT.items()},
        remarks=(_UNNAMED, _SHARED),
        eot_draws=EOT_DRAWS,
    ),
    "transfer": Table(
        "transfer",
        "section 4",
        "images crafted on the network with PGD training, scored on the others",
        ("pgd", "margin", "transfer"),
        ("transfer",),
        _without(("cifar_resnet20", _V2), _COMPARED),
        remarks=("The paper's figures for transfer, and its networks, are not available.",),
        surrogate="vanilla",
    ),
    "fewpixel": Table(
        "fewpixel",
        "section 4",
        "1, 2 and 3 pixels repainted",
        ("margin", "few-pixel"),
        PIXELS,
        _without(("cifar_resnet20", _V2), _COMPARED),
        remarks=("The paper's figures for few pixels, and its networks, are not available.",),
        long=True,
    ),
}
"""The tables and figures by their names."""
