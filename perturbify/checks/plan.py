"""What a check does: its settings, and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perturbify.attacks import FewPixel, Pgd, RandomSearch

FAMILIES = {
    "fgsm": "one step of length ε",
    "pgd": "projected steps, one draw of the noise a step",
    "eot": "projected steps, each on the mean gradient of independent draws",
    "frozen": "projected steps on fixed realisations of the noise",
    "transfer": "crafted on the network without its noise, and on the networks given with --from",
    "random": "the worst of random points of the ball",
    "unbounded": "projected steps without a bound",
    "sweep": "FGSM and PGD at other ε",
    "long": "many more steps, and those together with more draws",
    "restarts": "PGD from several starting points",
    "l2": "projected steps in an l2 ball of 0.5",
    "few-pixel": "1, 2 and 3 pixels by differential evolution",
    "apgd": "APGD on the cross-entropy and the difference of logits ratio (pyautoattack)",
    "square": "Square, by queries (pyautoattack)",
    "cw": "Carlini and Wagner's l2 attack (foolbox)",
    "hopskipjump": "HopSkipJump, by decisions on frozen noise (foolbox)",
}
"""The families of attacks that a plan can name."""


@dataclass(frozen=True)
class CheckPlan:
    """What a check does.

    Attributes:
        preset: Name of the preset that it comes from; ``"custom"`` once anything was changed.
        attacks: Families of :data:`FAMILIES`.
        images: Test images at most, as equal by class as possible; None takes all.
        few: Images at most for attacks that take thousands of passes an image (few-pixel, APGD, Square, C&W,
            HopSkipJump).
        sanity: Images at most for the attacks that say whether the other figures can be believed (frozen, random,
            unbounded, sweep); None takes all of the check.
        longest: Images at most for the longest run, many steps together with draws. None takes all of the check, and
            then it may turn out the strongest attack; on some of them it says whether the strongest has converged.
        epsilon: Radius of the l∞ ball in pixels of [0, 1].
        sweep: Further radii for the family ``sweep``, as multiples of ``epsilon``.
        step_size: Length of a step of PGD.
        steps: Steps of PGD.
        long_steps: Steps of its longest run; it is run with half as many, too, to see whether that makes a difference.
        restarts: Starting points of its restarted run.
        eot_draws: Draws that a step of EOT-PGD averages; it is run with half as many, too, for the same reason.
        at_once: Draws of EOT-PGD in one forward, where every image has draws of its own: faster on a GPU.
        frozen_draws: Realisations of the noise that frozen noise averages, and draws that compare random points.
        tries: Points of the random search.
        population: Candidates of the few-pixel attack.
        generations: Its generations.
        square_queries: Queries of the Square attack.
        confidences: κ of Carlini and Wagner's attack.
        draws: Fresh draws of the noise that score each image.
        queries: Numbers of repeated queries whose survival is reported.
        noise: ``"fresh"`` draws the noise for every image, ``"shared"`` once for a batch, whatever the network says;
            for one image both are the same, but shared draws tie the images of a batch together.
        batch_size: Images at once.
        seed: Of every random number.

    Raises:
        ValueError: A setting is outside its range.
    """

    preset: str = "custom"
    attacks: tuple[str, ...] = ("fgsm", "pgd", "eot", "frozen", "transfer", "random", "unbounded", "sweep", "long")
    images: int | None = 256
    few: int = 64
    sanity: int | None = None
    longest: int | None = None
    epsilon: float = 8 / 255
    sweep: tuple[float, ...] = (0.25, 0.5, 2.0)
    step_size: float = 0.01
    steps: int = 7
    long_steps: int = 20
    restarts: int = 3
    eot_draws: int = 10
    at_once: int = 1
    frozen_draws: int = 5
    tries: int = 20
    population: int = 100
    generations: int = 20
    square_queries: int = 1000
    confidences: tuple[float, ...] = (0.0,)
    draws: int = 20
    queries: tuple[int, ...] = (1, 5, 10, 100)
    noise: Literal["fresh", "shared"] = "fresh"
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "few", "sanity", "longest", "batch_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        if self.draws < 1 or not self.queries or min(self.queries) < 1:
            raise ValueError(f"draws and queries must be at least 1, not {self.draws} and {self.queries}")
        if self.noise not in ("fresh", "shared"):
            raise ValueError(f'noise is "fresh" or "shared", not {self.noise!r}')
        unknown = [a for a in self.attacks if a not in FAMILIES]
        if unknown:
            raise ValueError(f"there are no attacks {unknown[0]!r}; there are {', '.join(FAMILIES)}")
        Pgd(self.epsilon, self.step_size, self.long_steps, restarts=self.restarts)
        Pgd(self.epsilon, self.step_size, self.steps, draws=self.eot_draws, at_once=self.at_once)
        RandomSearch(self.epsilon, self.tries, self.frozen_draws)
        FewPixel(1, self.population, self.generations)


PRESETS = {
    "quick": CheckPlan(
        "quick", sanity=64, sweep=(0.5, 2.0), eot_draws=4, frozen_draws=3, tries=10, draws=10, queries=(1, 5, 10)
    ),
    "standard": CheckPlan(
        "standard",
        (*CheckPlan.attacks, "restarts", "l2", "few-pixel", "apgd", "square", "cw"),
        images=1000,
        few=32,
        sanity=256,
        longest=256,
        sweep=(0.125, 0.25, 0.5, 0.75, 1.5, 2.0),
        long_steps=50,
        eot_draws=20,
        tries=50,
    ),
    "paper": CheckPlan(
        "paper",
        ("fgsm", "pgd", "eot", "transfer", "sweep", "few-pixel", "cw", "random", "unbounded", "frozen", "long"),
        images=None,
        few=1000,
        sanity=1000,
        longest=1000,
        sweep=(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.25, 1.5, 1.75, 2.0),
        long_steps=50,
        eot_draws=80,
        population=400,
        generations=100,
        square_queries=5000,
        confidences=(0.0, 0.1, 1.0, 2.0, 5.0),
    ),
}
"""Plans with a name. ``paper``: the paper's settings throughout, 80 draws a step."""
