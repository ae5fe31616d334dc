"""In what a reproduction departs from the paper's protocol, named one by one."""

from __future__ import annotations

from dataclasses import dataclass

from perturbify import __version__, methods
from perturbify.checks import Report
from perturbify.data import Data
from perturbify.reproduction.job import FEW, Job, Reproduction, training_images
from perturbify.reproduction.paper import EOT_DRAWS, TEST_IMAGES, TRAINING_IMAGES
from perturbify.settings import AttackSettings, CheckSettings, Recipe
from perturbify.text import counted, fraction, times


@dataclass(frozen=True)
class Difference:
    """One departure.

    Attributes:
        what: In what.
        paper: What the paper has, as far as METHODS.md says.
        here: What we have.
    """

    what: str
    paper: str
    here: str

    def __str__(self) -> str:
        """As a line of a list."""
        return f"{self.what}: {self.here}; the paper: {self.paper}"


def differences(
    reproduction: Reproduction, job: Job, data: Data | None, report: Report | None
) -> tuple[Difference, ...]:
    """The departures of one job.

    Args:
        reproduction: What was asked for.
        job: The job.
        data: Its images; None where it cannot be run, and nothing is to be compared.
        report: Its check, where it has one.
    """
    if job.recipe is None or job.original is None or data is None:
        return ()
    recipe, original = job.recipe, job.original
    images = training_images(recipe, data)
    weights = None if report is None else (report.about.get("model") or {}).get("weights")
    found = [
        Difference("training images", f"CIFAR-10, {TRAINING_IMAGES:,}", f"{data.name}, {images:,}"),
        Difference("image size", "32×32", times(data.input_size[1:])),
        Difference("augmentation", _augmentation(original), _augmentation(recipe)),
        Difference("epochs", f"{original.train.epochs}", f"{recipe.train.epochs}"),
        Difference(
            "recipe",
            "each method's own",
            f"{recipe.name} for all" if reproduction.equal_schedule else "each method's own",
        ),
        Difference("weights at the start", "fresh", weights or "fresh"),
        Difference("adversary in the check", _adversary(CheckSettings()), _adversary(job.plan)),
        Difference("training runs", "not stated", f"one, with seed {reproduction.seed}"),
    ]
    if methods.get(recipe.method).adversarial:
        found.append(Difference("adversary in training", _adversary(original.attack), _adversary(recipe.attack)))
    if report is not None:
        found += _of_report(job, data, report)
    return tuple(d for d in found if d.paper != d.here)


def _of_report(job: Job, data: Data, report: Report) -> list[Difference]:
    answers, passes = report.clean.draws, methods.get(job.method).draws
    scored = f"{answers} fresh draws, of which the mean counts"
    if passes > 1:
        scored = f"{counted(answers, 'answer')}, each the mean softmax of {passes} draws"
    found = [Difference("test images", f"CIFAR-10, {TEST_IMAGES:,}", f"{data.name}, {report.n:,}")]
    if not report.deterministic:
        found += [
            Difference("an image is scored by", "one noisy pass", scored),
            Difference(
                "EOT-PGD",
                f"{EOT_DRAWS} draws a step, which in the authors' release are one and the same"
                if "EOT-PGD" in job.paper
                else "no such column",
                f"{job.plan.eot_draws} independent draws a step",
            ),
        ]
    if "cw" in job.plan.attacks:
        found += [
            Difference("images under C&W", "not stated", f"{min(job.plan.few, report.n)}, at most {FEW}"),
            Difference(
                "surviving C&W",
                "“success survived”, by how many passes is not stated",
                "the accuracy on fresh noise after the attack; what the attack claims stands beside it",
            ),
            Difference("weight c in C&W", "from 1e-3 to 1e10", "from 1e-3 to 1e5, tenfold a step (foolbox)"),
            Difference("network", "not named in METHODS.md", "ResNet-V2(18), by the height of its EOT figures"),
        ]
    versions = {"perturbify": __version__, **report.machine}
    said = ", ".join(f"{key} {value}" for key, value in versions.items())
    return [*found, Difference("versions", "not stated", said)]


def _augmentation(recipe: Recipe) -> str:
    flips = "horizontal flips" if recipe.data.flip else "no flips"
    return f"random crops with a padding of {recipe.data.crop_padding}, {flips}"


def _adversary(attack: AttackSettings | CheckSettings | object) -> str:
    epsilon, size, steps = (getattr(attack, key) for key in ("epsilon", "step_size", "steps"))
    return f"PGD-{steps}, ε = {fraction(epsilon)}, step {size:g}"
