"""The plan of a check: its settings, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from types import NoneType
from typing import TYPE_CHECKING, Literal

from perturbify.attacks import Attack, FewPixel, Pgd, RandomSearch

if TYPE_CHECKING:
    from perturbify.checks.cases import Case

QUICK = ("fgsm", "pgd", "margin", "longer", "twin", "known", "transfer", "random", "square", "unbounded", "sweep")
"""The attacks of the preset ``quick``, by name."""

STANDARD = (
    *("fgsm", "pgd", "margin", "targets", "longer", "apgd", "apgd-t", "fab", "square", "eot", "twin", "known"),
    *("frozen", "transfer", "random", "unbounded", "sweep", "restarts", "l2", "few-pixel", "cw", "stock"),
)

_NAMES = ("quick", "standard", "paper")
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (Integral,),
    "int | None": (Integral, NoneType),
    "float": (Real,),
    "float | None": (Real, NoneType),
    "tuple[float, ...]": (tuple, list),
    "tuple[int, ...]": (tuple, list),
}
"""The types that a setting may have, by its annotation."""

PAPER = (
    *("fgsm", "pgd", "margin", "targets", "longer", "apgd", "apgd-t", "fab", "square", "eot", "steps", "draws"),
    *("twin", "known", "frozen", "transfer", "random", "unbounded", "sweep", "few-pixel", "cw", "stock"),
)


@dataclass(frozen=True)
class CheckPlan:
    """The plan of a check.

    Attributes:
        preset: Name of the preset that it comes from; ``"custom"`` once anything is changed.
        attacks: Names, as :func:`perturbify.checks.cases.known` lists them, attacks, or cases.
        images: The most test images, balanced over the classes; None: all.
        few: The most images for attacks with thousands of passes an image (few-pixel, C&W, HopSkipJump, the stock
            AutoAttack).
        sanity: The most images for attacks that only test whether the other figures can be trusted (known and frozen
            noise, random points, other ε); None: all of the check.
        longest: The most images for hundreds of steps, or of draws a step; None: all of the check.
        epsilon: Radius of the l∞ ball in pixels of [0, 1].
        sweep: Further radii for ``sweep``, as multiples of ``epsilon``.
        step_size: Step size of PGD; None: 0.01 at ε = 8/255, in proportion to ε.
        steps: Steps of PGD.
        long_steps: Steps of the long PGD in ``steps``.
        gradients: Gradients per image of the margin attack; ``longer`` takes four times as many.
        restarts: Starting points of the restarted PGD.
        eot_draws: Draws that a step of EOT-PGD averages; it is run with half as many, too.
        most_draws: The most draws a step in ``draws``, which goes up by factors of two.
        at_once: Draws of EOT-PGD in one forward, if every image has its own draws: faster on a GPU.
        frozen_draws: Realisations of the noise that frozen noise averages, and draws that compare random points.
        tries: Points of the random search.
        population: Candidates of the few-pixel attack.
        generations: Its generations.
        square_queries: Queries of the Square attack on a deterministic network.
        square_draws: Draws that a query averages on a random one, which gets a fourth as many queries.
        confidences: κ of Carlini and Wagner's attack.
        draws: Fresh draws of the noise that score each image; at least two for a random network.
        queries: Numbers of repeated queries whose survival is reported.
        noise: ``"fresh"`` draws the noise for every image, ``"shared"`` once for a batch, whatever the network's own
            setting; for one image both are the same, but shared draws correlate the images of a batch.
        batch_size: Images at once.
        seed: Seed of every random number.

    Raises:
        ValueError: A setting is outside its range.
    """

    preset: str = field(default="custom", kw_only=True)
    attacks: tuple[str | Attack | Case, ...] = QUICK
    images: int | None = 256
    few: int = 64
    sanity: int | None = 128
    longest: int | None = None
    epsilon: float = 8 / 255
    sweep: tuple[float, ...] = (0.5, 2.0)
    step_size: float | None = None
    steps: int = 7
    long_steps: int = 200
    gradients: int = 40
    restarts: int = 3
    eot_draws: int = 10
    most_draws: int = 128
    at_once: int = 1
    frozen_draws: int = 3
    tries: int = 10
    population: int = 100
    generations: int = 20
    square_queries: int = 200
    square_draws: int = 5
    confidences: tuple[float, ...] = (0.0,)
    draws: int = 20
    queries: tuple[int, ...] = (1, 5, 10)
    noise: Literal["fresh", "shared"] = "fresh"
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.attacks, str):
            preset = f'; perturbify.checks.PRESETS["{self.attacks}"] is the plan' if self.attacks in _NAMES else ""
            raise ValueError(f"attacks must be a tuple, not {self.attacks!r}{preset}")
        for one in fields(self):
            kinds = _KINDS.get(str(one.type))
            if kinds and not isinstance(getattr(self, one.name), kinds):
                raise ValueError(f"{one.name} must be of type {one.type}, not {getattr(self, one.name)!r:.80}")
        for name in ("images", "few", "sanity", "longest", "batch_size", "gradients", "square_draws", "most_draws"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        if self.draws < 1 or not self.queries or min(self.queries) < 1:
            raise ValueError(f"draws and queries must be at least 1, not {self.draws} and {self.queries}")
        if self.noise not in ("fresh", "shared"):
            raise ValueError(f'noise must be "fresh" or "shared", not {self.noise!r}')
        Pgd(self.epsilon, self.step, self.long_steps, restarts=self.restarts)
        Pgd(self.epsilon, self.step, self.steps, draws=self.eot_draws, at_once=self.at_once)
        RandomSearch(self.epsilon, self.tries, self.frozen_draws)
        FewPixel(1, self.population, self.generations)

    @property
    def step(self) -> float:
        """Length of a step of PGD, in pixels of [0, 1]."""
        return 0.01 * self.epsilon / (8 / 255) if self.step_size is None else self.step_size


PRESETS = {
    "quick": CheckPlan(preset="quick"),
    "standard": CheckPlan(
        STANDARD,
        preset="standard",
        images=1000,
        few=32,
        sanity=256,
        longest=256,
        sweep=(0.125, 0.25, 0.5, 0.75, 1.5, 2.0),
        gradients=100,
        eot_draws=20,
        frozen_draws=5,
        tries=50,
        square_queries=1000,
        square_draws=10,
        queries=(1, 5, 10, 100),
    ),
    "paper": CheckPlan(
        PAPER,
        preset="paper",
        images=None,
        few=1000,
        sanity=1000,
        longest=1000,
        sweep=(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.25, 1.5, 1.75, 2.0),
        gradients=200,
        eot_draws=80,
        frozen_draws=5,
        tries=50,
        population=400,
        generations=100,
        square_queries=5000,
        square_draws=20,
        confidences=(0.0, 0.1, 1.0, 2.0, 5.0),
        queries=(1, 5, 10, 100),
    ),
}
"""Plans with a name. ``paper``: the paper's settings, and what reviewers of random defences ask for."""


def preset(name: str) -> tuple[str | Attack | Case, ...]:
    """The attacks of a preset, to which others can be added: ``attacks=[*preset("quick"), MyAttack()]``.

    Raises:
        ValueError: There is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name].attacks
