"""The jobs that follow from a table: which network is trained by which recipe, and checked how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from perturbify import methods
from perturbify import recipe as recipes
from perturbify.checks import CheckPlan
from perturbify.data import Data
from perturbify.errors import PerturbifyError
from perturbify.reproduction.paper import CONFIDENCES, EOT_DRAWS, Figures, Table, table
from perturbify.reproduction.schedule import shortened
from perturbify.settings import Recipe

FEW = 100
"""Images at most for C&W, which takes 9,000 passes for each of them at each κ."""

ANSWERS = 4
"""Answers at least that score an image: a worst case is chosen by half of them and scored by the others."""


@dataclass(frozen=True)
class Reproduction:
    """What is to be reproduced, and how.

    Attributes:
        table: ``"table1"``, ``"table2"`` or ``"table3"``.
        epochs: Every recipe is shortened to so many epochs; None: its whole schedule.
        equal_schedule: A recipe for all methods; None: each method's own.
        networks: Which of the table's networks; none: all of them.
        methods: Which of the table's methods; none: all of them.
        data: Other images than the recipe's, as :func:`perturbify.data.load` knows them.
        images: Test images of the check at most; None: all of them.
        weights: Weights files to start from, by network; others start fresh.
        seed: Of every random number.

    Raises:
        PerturbifyError: The table has no such network or method, or there is no such table.
    """

    table: str
    epochs: int | None = None
    equal_schedule: str | None = None
    networks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    data: str | None = None
    images: int | None = 1000
    weights: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        paper = table(self.table)
        for key in ("networks", "methods"):
            there, wanted = getattr(paper, key), getattr(self, key)
            _check_known(paper, key.removesuffix("s"), wanted, there)
            object.__setattr__(self, key, tuple(n for n in there if n in (wanted or there)))
        _check_known(paper, "network", tuple(self.weights), self.networks)


@dataclass(frozen=True)
class Job:
    """One network, trained by one method and checked.

    Attributes:
        network: Its name in the zoo.
        method: The defence.
        recipe: How it is trained; None where there is none, which ``why`` explains.
        original: The method's own recipe, with its whole schedule.
        plan: How it is checked.
        paper: The paper's figures.
        why: Why it cannot be run; None where it can.
    """

    network: str
    method: str
    paper: Figures
    plan: CheckPlan
    recipe: Recipe | None = None
    original: Recipe | None = None
    why: str | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.network}-{self.method}"


def jobs(reproduction: Reproduction) -> tuple[Job, ...]:
    """The jobs of a reproduction, in the paper's order.

    Raises:
        RecipeError: There is no recipe of the name ``equal_schedule``.
    """
    paper = table(reproduction.table)
    if reproduction.equal_schedule is not None:
        recipes.load(reproduction.equal_schedule)
    return tuple(
        _job(reproduction, paper, network, method)
        for network, method in paper.figures
        if network in reproduction.networks and method in reproduction.methods
    )


def recipe_of(method: str) -> Recipe:
    """A method's own recipe for CIFAR-10.

    Raises:
        RecipeError: It has none.
    """
    return recipes.load("cifar10" if method == methods.DEFAULT else f"cifar10_{method.replace('-', '_')}")


def _job(reproduction: Reproduction, paper: Table, network: str, method: str) -> Job:
    figures = paper.figures[network, method]
    try:
        original = recipe_of(method)
        recipe = original
        if reproduction.equal_schedule is not None:
            recipe = recipes.load(reproduction.equal_schedule, {"method": method})
    except PerturbifyError as error:
        return Job(network, method, figures, CheckPlan(), why=str(error))
    recipe = shortened(recipe, reproduction.epochs or recipe.train.epochs)
    data = recipe.data if reproduction.data is None else replace(recipe.data, name=reproduction.data, root=None)
    recipe = replace(recipe, model=network, seed=reproduction.seed, data=data)
    return Job(network, method, figures, _plan(reproduction, paper, recipe), recipe, original)


def _plan(reproduction: Reproduction, paper: Table, recipe: Recipe) -> CheckPlan:
    """The table's attacks, with the recipe's adversary."""
    draws = max(
        ANSWERS, CheckPlan.draws // methods.get(recipe.method).draws
    )  # who answers by a mean is asked less often
    plan = CheckPlan(
        **asdict(recipe.check)
        | {"preset": paper.name, "attacks": paper.attacks, "images": reproduction.images, "seed": reproduction.seed},
        draws=draws,
        queries=(1,),
        confidences=CONFIDENCES,
        few=min(FEW, reproduction.images or FEW),
    )
    return replace(plan, eot_draws=EOT_DRAWS) if "cw" in paper.attacks else plan


def _check_known(paper: Table, kind: str, wanted: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise PerturbifyError(f"There is no {kind} {unknown[0]!r} in {paper.name}.", f"There are {', '.join(known)}.")


def training_images(recipe: Recipe, data: Data) -> int:
    """How many images a recipe trains on, those held out not among them."""
    return min(len(data.train), recipe.data.train_images or len(data.train)) - (recipe.data.held_out or 0)
