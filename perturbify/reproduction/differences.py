"""How a reproduction departs from the paper's protocol and from the authors' release, item by item.

The paper states its loss, its warm-up, PGD-7 at 8/255 by steps of 0.01, where noise goes, and C&W's constants;
epochs, batches, optimisers, θ's initial value and floor, and γ are the release's (docs/constants.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from perturbify import __version__, methods
from perturbify.checks import CheckPlan, Report
from perturbify.data import Data
from perturbify.methods import Method, theta_way
from perturbify.reproduction.job import FEW, Job, Reproduction, training_images
from perturbify.reproduction.paper import DATASETS, EOT_DRAWS, RELEASED, TEST_IMAGES, TRAINING_IMAGES
from perturbify.reproduction.schedule import Steps, steps
from perturbify.settings import AttackSettings, CheckSettings, OptimizerSettings, Recipe
from perturbify.text import counted, fraction, listed, times

PAPER, RELEASE = "the paper", "the authors' release"
ALGORITHM = "the paper's Algorithm 1 over the release's epochs"
NOT_STATED = "not stated"

WARM_UP = 20
"""Epochs without noise in the paper."""

RELEASE_NOISE, RELEASE_ATTACK = 10, 20
"""The epochs, counted from 0, from which on the release has noise and adversarial images."""


@dataclass(frozen=True)
class Difference:
    """One departure.

    Attributes:
        what: The setting.
        whose: The source of the other value: the paper, its authors' release, or another method's own.
        theirs: What they have.
        here: What we have.
    """

    what: str
    whose: str
    theirs: str
    here: str

    def __str__(self) -> str:
        """As a line of a list."""
        return f"{self.what}: {self.here}; {self.whose}: {self.theirs}"


def differences(
    reproduction: Reproduction, job: Job, data: Data | None, report: Report | None = None, theta: float | None = None
) -> tuple[Difference, ...]:
    """The departures of one job, by the recipe that it ran.

    Args:
        reproduction: What was asked for.
        job: The job.
        data: Its images; None if it cannot be run, and nothing is compared.
        report: Its check, if it has one.
        theta: Mean of θ at the end of training, if training has finished.
    """
    if job.recipe is None or job.original is None or data is None:
        return ()
    recipe, original = job.recipe, job.original
    method = methods.get(recipe.method)
    own = RELEASE if job.method in RELEASED else f"recipe {original.name}, after {method.source}"
    found = _of_data(recipe, data, own, original) + _of_schedule(recipe, original, method, own, report)
    if method.noisy:
        found += _of_noise(recipe, original, method, own)
    if method.adversarial:
        found += _of_attack(recipe, original, method, PAPER if job.method in RELEASED else own)
    images = training_images(recipe, data)
    done = steps(recipe, method, images)
    full = replace(original, train=replace(original.train, joint=True))
    found += _of_steps(done, steps(full, method, TRAINING_IMAGES), ALGORITHM if method.alternates else own)
    if method.alternates:
        found += _of_turns(recipe, images, done, theta)
    found += [
        Difference(
            "recipe",
            PAPER,
            "each method's own",
            f"{recipe.name} for all" if reproduction.equal_schedule else "each method's own",
        ),
        Difference("training runs", PAPER, f"how many is {NOT_STATED}", _runs(reproduction.seeds)),
    ]
    found.append(Difference("adversary in the check", PAPER, _adversary(CheckSettings()), _adversary(job.plan)))
    if report is not None:
        found += _of_report(job, data, report)
    return tuple(d for d in found if d.theirs != d.here)


def _of_data(recipe: Recipe, data: Data, own: str, original: Recipe) -> list[Difference]:
    here = DATASETS.get(data.name, data.name)
    images = training_images(recipe, data)
    return [
        Difference("training images", PAPER, f"{_dataset(data)}, {TRAINING_IMAGES:,}", f"{here}, {images:,}"),
        Difference("image size", PAPER, "32×32", times(data.input_size[1:])),
        Difference("augmentation", own, _augmentation(original), _augmentation(recipe)),
    ]


def _of_schedule(recipe: Recipe, original: Recipe, method: Method, own: str, report: Report | None) -> list[Difference]:
    weights = None if report is None else (report.about.get("model") or {}).get("weights")
    found = [
        Difference("epochs", own, f"{original.train.epochs}", f"{recipe.train.epochs}"),
        Difference("batch size", own, f"{original.train.batch_size}", f"{recipe.train.batch_size}"),
        Difference("optimiser of W", own, _optimizer(original.optimizer), _optimizer(recipe.optimizer)),
        Difference("weights at the start", PAPER, "fresh", weights or "fresh"),
    ]
    if method.perturb is not None and method.perturb.learnable:
        theirs, here = _optimizer(original.theta_optimizer), _optimizer(recipe.theta_optimizer)
        found.append(Difference("optimiser of θ", own, theirs, here))
    return found


def _of_noise(recipe: Recipe, original: Recipe, method: Method, own: str) -> list[Difference]:
    """Where noise is, how it is drawn, its initial value, and its bounds."""
    # The paper specifies Learn2Perturb's noise; other methods specify their own.
    whose = PAPER if method.alternates else own
    here, theirs = recipe.perturb, original.perturb
    found = [
        Difference("noise", whose, _PLACES[theirs.site], _PLACES[here.site]),
        Difference("one θ for each", whose, theirs.grain, here.grain),
        Difference("θ at the start", own, f"{theirs.theta_init}", f"{here.theta_init}"),
        Difference("floor of θ", own, f"{theirs.theta_min}", f"{here.theta_min}"),
    ]
    if not here.on_weights:
        found.append(Difference("a draw of noise for each", whose, _SHARES[theirs.draw_per], _SHARES[here.draw_per]))
    if method.alternates:
        found += [
            Difference("noise", RELEASE, _PLACES["addition"], _PLACES[here.site]),
            Difference("a draw of noise for each", RELEASE, _SHARES["batch"], _SHARES[here.draw_per]),
        ]
    if method.gamma:
        gammas = [method.gamma if r.train.gamma is None else r.train.gamma for r in (original, recipe)]
        found.append(Difference("γ, the penalty's weight", own, *(f"{gamma:g}" for gamma in gammas)))
    return found


def _of_attack(recipe: Recipe, original: Recipe, method: Method, whose: str) -> list[Difference]:
    """The adversary of training; the release begins it at another epoch than the paper."""
    here, theirs = recipe.attack, original.attack
    found = [
        Difference("adversary in training", whose, _adversary(theirs), _adversary(here)),
        Difference("share of the adversarial loss", whose, f"{theirs.weight:g}", f"{here.weight:g}"),
        Difference("adversarial images from epoch", whose, f"{theirs.from_epoch}", f"{here.from_epoch}"),
    ]
    found.append(Difference("label that PGD is against", whose, "true", here.labels))
    if method.alternates:
        found += [
            Difference("adversarial images from epoch", RELEASE, f"{RELEASE_ATTACK}", f"{here.from_epoch}"),
            Difference("label that PGD is against", RELEASE, "predicted", here.labels),
        ]
    return found


def _of_steps(done: Steps, full: Steps, own: str) -> list[Difference]:
    return [
        Difference("W-steps", own, f"{full.weights:,}", f"{done.weights:,}"),
        # A baseline trained by the same recipe takes a W-step for every batch.
        Difference(
            "W-steps in so many batches", PAPER, _of(done.batches, done.batches), _of(done.weights, done.batches)
        ),
        Difference("θ-steps", own, f"{full.thetas:,}", f"{done.thetas:,}"),
    ]


def _of_turns(recipe: Recipe, images: int, done: Steps, theta: float | None) -> list[Difference]:
    """Settings of Learn2Perturb alone: its warm-up, its Algorithm 1, and how far θ moves."""
    train = recipe.train
    turns = f"alternating, {counted(train.w_steps, 'W-step')} and {counted(train.theta_steps, 'θ-step')}"
    joint = "both from one evaluation, on the same images (Algorithm 1)"
    found = [
        Difference("epochs of warm-up, noise off", PAPER, f"{WARM_UP}", f"{train.warmup_epochs}"),
        Difference("epochs of warm-up, noise off", RELEASE, f"{RELEASE_NOISE}", f"{train.warmup_epochs}"),
        Difference("updates of W and θ", PAPER, joint, joint if train.joint else turns),
    ]
    faster = theta_way.pace(recipe, images, warms_up=True)
    rate = "as W's" if faster == 1 else f"as W's, times {faster:.3g} for the length of the run"
    found += [
        Difference("θ's learning rate", RELEASE, "as W's", rate),
        Difference("γ∇g", PAPER, _FORMS["literal"], _FORMS[train.gamma_form]),
        Difference("γ∇g", RELEASE, _FORMS["optimizer"], _FORMS[train.gamma_form]),
        Difference("τ counts epochs from the first", PAPER, "with noise", _TAU[train.tau_from]),
    ]
    if theta is not None:
        way = theta_way.said(theta, recipe.perturb.theta_init)
        here = f"{theta:.3f} on average after {counted(done.thetas, 'θ-step')}, {way}"
        theirs = f"{theta_way.full()[-1]:.2f}, by the regulariser alone"
        found.append(Difference("θ at the end", ALGORITHM, theirs, here))
    return found


def _of_report(job: Job, data: Data, report: Report) -> list[Difference]:
    answers, passes = report.clean.draws, methods.get(job.method).draws
    scored = f"the mean of {answers} fresh draws"
    if passes > 1:
        scored = f"{counted(answers, 'answer')}, each the mean softmax of {passes} draws"
    here = f"{DATASETS.get(data.name, data.name)}, {report.n:,}"
    found = [Difference("test images", PAPER, f"{_dataset(data)}, {TEST_IMAGES:,}", here)]
    if not report.deterministic:
        found += [Difference("an image is scored by", PAPER, "one noisy pass", scored)]
        if "eot" in job.plan.attacks:
            found += [
                Difference(
                    "EOT-PGD",
                    RELEASE if "EOT-PGD" in job.paper else PAPER,
                    f"{EOT_DRAWS} identical draws a step" if "EOT-PGD" in job.paper else "no such column",
                    f"{job.plan.eot_draws} independent draws a step",
                )
            ]
    if "cw" in job.plan.attacks:
        found += _of_carlini_wagner(job.plan, report)
    if "few-pixel" in job.plan.attacks:
        plan = job.plan
        here = f"{plan.population} candidates, {counted(plan.generations, 'generation')}"
        few = f"{min(plan.few, report.n)}, at most {FEW}"
        found += [
            Difference("search for pixels", PAPER, NOT_STATED, f"differential evolution, {here}"),
            Difference("images under few pixels", PAPER, NOT_STATED, few),
        ]
    versions = {"perturbify": __version__, **report.machine}
    said = ", ".join(f"{key} {value}" for key, value in versions.items())
    return [*found, Difference("versions", PAPER, NOT_STATED, said)]


def _of_carlini_wagner(plan: CheckPlan, report: Report) -> list[Difference]:
    survived = "the accuracy on fresh noise after the attack; the attack's own claim is given beside it"
    few = f"{min(plan.few, report.n)}, at most {FEW}"
    return [
        Difference("images under C&W", PAPER, NOT_STATED, few),
        Difference("surviving C&W", PAPER, "“success survived”, with an unstated number of passes", survived),
        Difference("weight c in C&W", PAPER, "from 1e-3 to 1e10", "from 1e-3 to 1e5, tenfold a step (foolbox)"),
    ]


_PLACES = {
    "output": "behind every convolution",
    "input": "before every convolution",
    "norm": "behind the normalisations that follow convolutions",
    "addition": "on residual additions, and behind the stem's normalisation",
    "weight": "on the weights of convolutions and linear layers",
    "parameter": "on every weight, bias and affine parameter",
}
_SHARES = {"sample": "image", "batch": "batch"}
_FORMS = {
    "literal": "is subtracted directly, not multiplied by the learning rate",
    "optimizer": "goes through θ's optimiser, its learning rate and momentum",
}
_TAU = {"noise": "with noise", "start": "of all"}


def _dataset(data: Data) -> str:
    """The paper's dataset that corresponds to the images."""
    return DATASETS.get(data.name, DATASETS["cifar10"])


def _runs(seeds: tuple[int, ...]) -> str:
    if len(seeds) == 1:
        return f"one, with seed {seeds[0]}"
    return f"{len(seeds)}, with the seeds {listed([str(seed) for seed in seeds])}"


def _of(some: int, whole: int) -> str:
    return f"{some:,} of {whole:,}"


def _augmentation(recipe: Recipe) -> str:
    flips = "horizontal flips" if recipe.data.flip else "no flips"
    return f"random crops with a padding of {recipe.data.crop_padding}, {flips}"


def _optimizer(settings: OptimizerSettings) -> str:
    kind = {"sgd": "SGD", "adam": "Adam"}[settings.kind]
    if settings.kind == "sgd" and settings.momentum:
        kind += f" with {'Nesterov ' if settings.nesterov else ''}momentum {settings.momentum:g}"
    drops = (
        f", times {settings.decay:g} at {listed([str(m) for m in settings.milestones])}" if settings.milestones else ""
    )
    return f"{kind}, learning rate {settings.lr:g}{drops}, weight decay {settings.weight_decay:g}"


def _adversary(attack: AttackSettings | CheckSettings | CheckPlan) -> str:
    step = attack.step if isinstance(attack, CheckPlan) else attack.step_size
    return f"PGD-{attack.steps}, ε = {fraction(attack.epsilon)}, step {step:g}"
