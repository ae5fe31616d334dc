"""The jobs of a table: which network is trained by which recipe, from which seed, and how it is checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from perturbify import methods, zoo
from perturbify import recipe as recipes
from perturbify.checks import CheckPlan
from perturbify.data import Data
from perturbify.errors import PerturbifyError
from perturbify.numbers import MOST_SEED
from perturbify.reproduction.paper import CONFIDENCES, SWEEP, check_known, recipe_name, table
from perturbify.reproduction.schedule import shortened
from perturbify.reproduction.table import Figures, Table
from perturbify.settings import Recipe
from perturbify.zoo.names import constructor

FEW = 100
"""Most images for C&W and few pixels, which take thousands of passes for each of them."""

POPULATION, GENERATIONS = 400, 100
"""Candidates and generations of the few-pixel attack where the budget is the paper's, as in Su et al. (2019)."""

ANSWERS = 4
"""Fewest answers that score an image: a worst case is chosen by half of them and scored by the others."""


@dataclass(frozen=True)
class Reproduction:
    """What to reproduce, and how.

    Attributes:
        table: A name of :data:`perturbify.reproduction.paper.TABLES`: ``"table1"``, ``"fig2"``, ``"eot"``, …
        epochs: Every recipe is shortened to this many epochs, at least 1; None: its whole schedule.
        equal_schedule: A recipe for all methods; None: each method's own.
        networks: Which of the table's networks; empty: all of them.
        methods: Which of the table's methods; empty: all of them. The one that images are crafted on is always there.
        data: Other images than the recipe's, as :func:`perturbify.data.load` knows them.
        images: Most test images of the check; None: all of them.
        weights: Weights files to start from, by network; others start from fresh weights.
        seeds: Each row is trained and checked once with each of them; at least one, without repetition.

    Raises:
        PerturbifyError: There is no such table, it has no such network or method, or a number is out of range.
    """

    table: str
    epochs: int | None = None
    equal_schedule: str | None = None
    networks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    data: str | None = None
    images: int | None = 1000
    weights: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        paper = table(self.table)
        if self.epochs is not None and self.epochs < 1:
            raise PerturbifyError(f"A budget of {self.epochs} epochs trains nothing.", "Give 1 or more.")
        _check_seeds(self.seeds)
        for key in ("networks", "methods"):
            there, wanted = getattr(paper, key), getattr(self, key)
            check_known(paper, key.removesuffix("s"), wanted, there)
            if key == "methods" and wanted and paper.surrogate is not None:
                wanted = (paper.surrogate, *wanted)
            object.__setattr__(self, key, tuple(n for n in there if n in (wanted or there)))
        check_known(paper, "network", tuple(self.weights), self.networks)
        if not self.rows:
            raise PerturbifyError(
                f"{paper.name} has no row with {' or '.join(self.methods)} on {' or '.join(self.networks)}.",
                f"It has {', '.join(f'{method} on {network}' for network, method in paper.figures)}.",
            )

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The networks and methods, in the paper's order."""
        return tuple(
            (network, method)
            for network, method in table(self.table).figures
            if network in self.networks and method in self.methods
        )


@dataclass(frozen=True)
class Job:
    """One network, trained by one method from one seed, and checked.

    Attributes:
        name: The name of its folder.
        network: Its name in the zoo.
        method: The defence.
        seed: Seed of every random number.
        paper: The paper's figures.
        plan: How it is checked.
        recipe: How it is trained; None if it cannot be, which ``why`` explains.
        original: The method's own recipe, with its whole schedule.
        surrogate: Name of the job on whose network images are crafted; None: there is none.
        why: Why it cannot be run; None if it can.
    """

    name: str
    network: str
    method: str
    seed: int
    paper: Figures
    plan: CheckPlan
    recipe: Recipe | None = None
    original: Recipe | None = None
    surrogate: str | None = None
    why: str | None = None


def jobs(reproduction: Reproduction) -> tuple[Job, ...]:
    """The jobs of a reproduction, in the paper's order, and for each row one seed after the other.

    Raises:
        RecipeError: There is no recipe of the name ``equal_schedule``.
    """
    if reproduction.equal_schedule is not None:
        recipes.load(reproduction.equal_schedule)
    return tuple(
        _job(reproduction, network, method, seed)
        for network, method in reproduction.rows
        for seed in reproduction.seeds
    )


def _job(reproduction: Reproduction, network: str, method: str, seed: int) -> Job:
    paper = table(reproduction.table)
    several = f"-seed-{seed}" if len(reproduction.seeds) > 1 else ""
    job = Job(f"{network}-{method}{several}", network, method, seed, paper.figures[network, method], CheckPlan())
    if paper.surrogate not in (None, method):
        job = replace(job, surrogate=f"{network}-{paper.surrogate}{several}")
    try:
        original = recipes.load(recipe_name(method))
        recipe = original
        if reproduction.equal_schedule is not None:
            recipe = recipes.load(reproduction.equal_schedule, {"method": method})
    except PerturbifyError as error:
        return replace(job, why=str(error))
    recipe = shortened(recipe, reproduction.epochs or recipe.train.epochs)
    data = recipe.data if reproduction.data is None else replace(recipe.data, name=reproduction.data, root=None)
    arguments = _arguments(network, recipe)
    recipe = replace(recipe, model=network, model_args=arguments, seed=seed, data=data)
    return replace(job, plan=_plan(reproduction, paper, recipe), recipe=recipe, original=original)


def _arguments(network: str, recipe: Recipe) -> dict[str, object]:
    """Those of the recipe's arguments for its own network that this network takes, too."""
    taken = inspect.signature(constructor(zoo.resolve(network))).parameters
    return {key: value for key, value in recipe.model_args.items() if key in taken}


def _plan(reproduction: Reproduction, paper: Table, recipe: Recipe) -> CheckPlan:
    """The table's attacks, with the recipe's adversary."""
    draws = max(
        ANSWERS, CheckPlan.draws // methods.get(recipe.method).draws
    )  # methods that average draws are asked less often
    plan = CheckPlan(
        **asdict(recipe.check)
        | {"preset": paper.name, "attacks": paper.attacks, "images": reproduction.images, "seed": recipe.seed},
        draws=draws,
        queries=(1,),
        confidences=CONFIDENCES,
        few=min(FEW, reproduction.images or FEW),
    )
    if paper.eot_draws is not None:
        plan = replace(plan, eot_draws=paper.eot_draws)
    if paper.curve is not None:
        plan = replace(plan, sweep=SWEEP, sanity=None)  # every point of the curve on all images
    if "few-pixel" in paper.attacks and reproduction.epochs is None:
        plan = replace(plan, population=POPULATION, generations=GENERATIONS)
    return plan


def _check_seeds(seeds: tuple[int, ...]) -> None:
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    strange = next((seed for seed in seeds if not 0 <= seed <= MOST_SEED), None)
    if not seeds:
        raise PerturbifyError("There are no seeds, so nothing would be trained.", "Give at least one.")
    if twice is not None:
        raise PerturbifyError(f"The seed {twice} is given twice; both runs would be the same.", "Remove one.")
    if strange is not None:
        raise PerturbifyError(f"The seed {strange} is not between 0 and {MOST_SEED:,}.", "Choose another.")


def training_images(recipe: Recipe, data: Data) -> int:
    """How many images a recipe trains on, without the held-out ones."""
    return min(len(data.train), recipe.data.train_images or len(data.train)) - (recipe.data.held_out or 0)
