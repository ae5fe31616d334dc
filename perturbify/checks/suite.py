"""The suite: clean images and l∞ attacks, with the noise on and off, and transfer from the noise-free network."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.attacks import Pgd, attacked, pgd
from perturbify.checks.liveness import examine
from perturbify.checks.report import Report, Row
from perturbify.checks.statistics import wilson
from perturbify.data import Data, Split
from perturbify.errors import CheckError, PerturbifyError
from perturbify.perturbation import noise, perturbations
from perturbify.surgery.sites import first_line
from perturbify.text import times

OnBatch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CheckPlan:
    """What a check does.

    Attributes:
        images: Test images at most, as equal by class as possible; None takes all.
        epsilon: Radius of the l∞ ball in pixels of [0, 1].
        step_size: Length of a step of PGD.
        steps: Steps of PGD.
        eot_draws: Draws that each step of EOT-PGD averages.
        batch_size: Images at once.
        seed: Of every random number.

    Raises:
        ValueError: A setting is outside its range.
    """

    images: int | None = 1000
    epsilon: float = 8 / 255
    step_size: float = 0.01
    steps: int = 7
    eot_draws: int = 10
    batch_size: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.images is not None and self.images < 1):
            raise ValueError(f"images and batch_size must be at least 1, not {self.images} and {self.batch_size}")
        Pgd(self.epsilon, self.step_size, self.steps, draws=self.eot_draws)  # which refuses what is out of its range

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The attacks, cheapest first."""
        still = Pgd(0, 0, 0, random_start=False)
        fgsm = Pgd(self.epsilon, self.epsilon, 1, random_start=False)
        pgd = Pgd(self.epsilon, self.step_size, self.steps)
        eot = replace(pgd, draws=self.eot_draws)
        return (
            Trial("clean", still, crafted_noisy=True, scored_noisy=True),
            Trial("clean", still, crafted_noisy=False, scored_noisy=False),
            Trial("FGSM", fgsm, crafted_noisy=True, scored_noisy=True),
            Trial("FGSM", fgsm, crafted_noisy=False, scored_noisy=False),
            Trial(f"PGD-{self.steps}", pgd, crafted_noisy=True, scored_noisy=True),
            Trial(f"PGD-{self.steps}", pgd, crafted_noisy=False, scored_noisy=False),
            Trial(f"PGD-{self.steps} transfer", pgd, crafted_noisy=False, scored_noisy=True),
            Trial(f"EOT-PGD-{self.steps}", eot, crafted_noisy=True, scored_noisy=True),
            # Without noise every draw is the same, so one is all there is to average.
            Trial(f"EOT-PGD-{self.steps}", pgd, crafted_noisy=False, scored_noisy=False),
        )


@dataclass(frozen=True)
class Trial:
    """One attack: how images are crafted, and whether the noise is on while crafting and while scoring."""

    name: str
    attack: Pgd
    crafted_noisy: bool
    scored_noisy: bool

    @property
    def noise(self) -> str:
        """As the report names it."""
        if self.crafted_noisy == self.scored_noisy:
            return "on" if self.scored_noisy else "off"
        return "off→on"


def check(
    model: nn.Module,
    data: Data | Split,
    plan: CheckPlan = CheckPlan(),
    *,
    subject: str | None = None,
    about: Mapping[str, Any] | None = None,
    on_batch: OnBatch | None = None,
) -> Report:
    """Measures how often a classifier is right, on clean and on attacked images.

    Images are crafted by white-box attacks on the network as it runs, and then scored by one fresh draw of the noise
    each. The network's modes, buffers and gradients, and the caller's random state, are afterwards what they were.

    Args:
        model: Any classifier that takes pixels in [0, 1], with or without noise; only a noisy one is attacked with
            the noise on as well.
        data: The images; of a whole dataset the test images are taken.
        plan: How many images, and which attacks.
        subject: What the report calls the network.
        about: What the report says of where the network comes from, as JSON values.
        on_batch: Called with the trial's name, the images done in it, and the images it has.

    Raises:
        CheckError: There are no images, the network does not take them, or its classes are not those of the data.
        ModelError: The network gives no gradient for its images, or was made for images of another size.
    """
    split = data.test if isinstance(data, Data) else data
    name = data.name if isinstance(data, Data) else "own images"
    if not len(split):
        raise CheckError(f"There is nothing to check on: {name} has no test images.")
    if plan.images is not None:
        split = split.balanced(plan.images)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    cuda = [device.index or 0] if device.type == "cuda" else []
    noisy = next(perturbations(model), None) is not None
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(_seed(plan.seed, "liveness"))
        images, _ = next(split.batches(min(4, len(split))))
        _check_head(model, images.to(device), split, len(data.classes) if isinstance(data, Data) else None)
        liveness = examine(model, images.to(device))
        trials = [t for t in plan.trials if noisy or not (t.crafted_noisy or t.scored_noisy)]
        rows = tuple(_row(model, split, trial, plan, device, on_batch) for trial in trials)
    return Report(
        subject=subject or type(model).__name__,
        data=name,
        n=len(split),
        seed=plan.seed,
        epsilon=plan.epsilon,
        liveness=liveness,
        rows=rows,
        machine=machine(device),
        about=dict(about or {}),
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on: versions, device, threads."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _row(
    model: nn.Module, split: Split, trial: Trial, plan: CheckPlan, device: torch.device, on_batch: OnBatch | None
) -> Row:
    # A seed of its own, so that a trial's figure does not depend on which others were run.
    torch.manual_seed(_seed(plan.seed, f"{trial.name} {trial.noise}"))
    started, correct, done = time.perf_counter(), 0, 0
    for x, y in _batches(split, plan.batch_size, device):
        with noise(model, trial.crafted_noisy):
            crafted = pgd(model, x, y, trial.attack)
        with noise(model, trial.scored_noisy), attacked(model), torch.no_grad():
            correct += _correct(model(crafted), y)
        done += len(y)
        if on_batch is not None:
            on_batch(f"{trial.name}, noise {trial.noise}", done, len(split))
    a = trial.attack
    return Row(
        attack=trial.name,
        noise=trial.noise,
        n=done,
        correct=correct,
        accuracy=correct / done,
        interval=wilson(correct, done),
        epsilon=a.epsilon,
        steps=a.steps,
        step_size=a.step_size,
        draws=a.draws,
        seconds=round(time.perf_counter() - started, 3),
    )


def _batches(split: Split, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in split.batches(size):
        yield x.to(device), y.to(device)


def _correct(logits: Tensor, y: Tensor) -> int:
    # To argmax, NaN is the greatest of numbers; here it is no answer.
    return int(((logits.argmax(1) == y) & ~logits.isnan().any(1)).sum())


def _check_head(model: nn.Module, images: Tensor, split: Split, classes: int | None) -> None:
    try:
        with attacked(model), torch.no_grad():
            logits = model(images)
    except PerturbifyError:
        raise
    except Exception as error:
        what = f"{times(images.shape[1:])} images in {str(images.dtype).removeprefix('torch.')}"
        raise CheckError(
            f"{type(model).__name__} does not take {what}: {first_line(error)}.",
            "Check it on images as it was made for; a network in another precision is checked as model.float().",
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise CheckError(f"{type(model).__name__} is not a classifier: it does not give one row of logits an image.")
    if logits.shape[1] <= int(split.labels.max()):
        raise CheckError(
            f"The network tells {logits.shape[1]} classes apart, the data have labels up to {int(split.labels.max())}.",
            "Check it on the data it was made for.",
        )
    if classes is not None and logits.shape[1] != classes:
        raise CheckError(
            f"The network tells {logits.shape[1]} classes apart, the data have {classes}.",
            "Check it on the data it was made for.",
        )


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
