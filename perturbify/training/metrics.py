"""What a run says of itself while it goes: sums over an epoch, one JSON line an epoch, an event a step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from perturbify.perturbation import perturbations
from perturbify.spread import relative_noise
from perturbify.surgery.noisy import Perturbed


@dataclass
class EpochSums:
    """Running sums over the steps of an epoch; they are part of the state a run resumes from.

    Attributes:
        images: Images seen.
        clean_loss: Sum of the clean cross-entropy over images.
        clean_correct: Images classified rightly as they are.
        adversarial_images: Images that were attacked.
        adversarial_loss: Sum of their cross-entropy after the attack.
        adversarial_correct: Of these, classified rightly.
        seconds: Time spent.
        steps: Steps taken in each phase.
    """

    images: int = 0
    clean_loss: float = 0.0
    clean_correct: int = 0
    adversarial_images: int = 0
    adversarial_loss: float = 0.0
    adversarial_correct: int = 0
    seconds: float = 0.0
    steps: dict[str, int] = field(default_factory=dict)

    def add(self, step: StepResult, phase: str, seconds: float) -> None:
        """Adds a step."""
        self.images += step.images
        self.clean_loss += step.clean_loss * step.images
        self.clean_correct += step.clean_correct
        if step.adversarial_loss is not None:
            self.adversarial_images += step.images
            self.adversarial_loss += step.adversarial_loss * step.images
            self.adversarial_correct += step.adversarial_correct
        self.seconds += seconds
        self.steps[phase] = self.steps.get(phase, 0) + 1

    @classmethod
    def total(cls, parts: Sequence[EpochSums]) -> EpochSums:
        """The sums over several processes, which take the same steps at the same time on their own images."""
        names = [f.name for f in fields(cls) if f.name not in ("seconds", "steps")]
        added = {name: sum(getattr(part, name) for part in parts) for name in names}
        return cls(**added, seconds=parts[0].seconds, steps=dict(parts[0].steps))

    def to_dict(self) -> dict[str, Any]:
        """The sums as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class StepFigures:
    """The figures of one step, still on the device, so that nothing has to wait for them.

    Attributes:
        images: Images seen.
        attacked: Whether they were attacked.
        values: Mean clean cross-entropy, clean hits, and the same of the attacked images; float32, shape (4,).
    """

    images: int
    attacked: bool
    values: Tensor


@dataclass(frozen=True)
class StepResult:
    """Losses (mean over the batch) and hits of one step; adversarial ones None and 0 without an attack."""

    images: int
    clean_loss: float
    clean_correct: int
    adversarial_loss: float | None
    adversarial_correct: int

    @classmethod
    def read(cls, steps: Sequence[StepFigures]) -> list[StepResult]:
        """The figures of several steps as numbers; synchronises with the device once."""
        rows = torch.stack([step.values for step in steps]).tolist() if steps else []
        return [
            cls(s.images, loss, int(hits), adversarial if s.attacked else None, int(stood))
            for s, (loss, hits, adversarial, stood) in zip(steps, rows, strict=True)
        ]


@dataclass(frozen=True)
class ThetaSummary:
    """Summary of all θ.

    Attributes:
        mean: Mean entry.
        min: Smallest entry.
        max: Largest entry.
        sites: Mean entry at each site.
        relative: Standard deviation of the noise over that of what it is added to, at each site; None where the latter
            is 0.
    """

    mean: float
    min: float
    max: float
    sites: dict[str, float]
    relative: dict[str, float | None]


@dataclass(frozen=True)
class Progress:
    """Progress of a run, after each step.

    Attributes:
        epoch: From 0.
        epochs: Number of epochs.
        step: Step inside the epoch, from 0.
        steps: Steps of an epoch.
        phase: Name of the step's phase.
        images_per_second: Over this process's part of the run.
        seconds_left: Estimate until the end of the run.
        clean_loss: Of this step.
        adversarial_loss: Of this step; None without an attack.
        epoch_summary: The epoch's metrics, after its last step only.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    phase: str
    images_per_second: float
    seconds_left: float
    clean_loss: float
    adversarial_loss: float | None
    epoch_summary: dict[str, Any] | None = None


class Clock:
    """Time spent in this process's part of a run, and the time left at this pace.

    Warm-up steps and noisy steps differ in cost, so the pace is measured over the last steps only.
    """

    WINDOW = 50

    def __init__(self) -> None:
        self._recent: list[tuple[float, int]] = []
        self._last = time.perf_counter()

    def lap(self, images: int) -> float:
        """Records a step of ``images`` images and returns its seconds."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._recent = [*self._recent[-self.WINDOW + 1 :], (seconds, images)]
        return seconds

    @property
    def seconds_per_step(self) -> float:
        """Mean over the last steps."""
        return sum(s for s, _ in self._recent) / len(self._recent)

    @property
    def images_per_second(self) -> float:
        """Mean over the last steps."""
        return sum(n for _, n in self._recent) / max(sum(s for s, _ in self._recent), 1e-9)


def summarize_thetas(model: Perturbed, images: Tensor) -> ThetaSummary | None:
    """Summary of all θ, relative to the activations of some images; None for a network without noise."""
    thetas = {site: p.theta.detach().flatten().float() for site, p in perturbations(model)}
    if not thetas:
        return None
    every = torch.cat(list(thetas.values()))
    sites = {site: theta.mean().item() for site, theta in thetas.items()}
    relative = {site: ratio if math.isfinite(ratio) else None for site, ratio in relative_noise(model, images).items()}
    return ThetaSummary(every.mean().item(), every.min().item(), every.max().item(), sites, relative)


def summarize_epoch(
    epoch: int, sums: EpochSums, model: Perturbed, images: Tensor, rates: dict[str, float]
) -> dict[str, Any]:
    """One line of ``metrics.jsonl``: accuracies in [0, 1] on augmented training images, under the attack of training.

    Args:
        epoch: From 0.
        sums: The epoch's sums.
        model: The network that has θ.
        images: Images to measure the activations on.
        rates: Learning rate of each optimiser.
    """
    attacked = sums.adversarial_images
    theta = summarize_thetas(model, images)
    return {
        "epoch": epoch,
        "steps": sums.steps,
        "images": sums.images,
        "clean_loss": sums.clean_loss / sums.images,
        "clean_accuracy": sums.clean_correct / sums.images,
        "adversarial_loss": sums.adversarial_loss / attacked if attacked else None,
        "adversarial_accuracy": sums.adversarial_correct / attacked if attacked else None,
        "theta": asdict(theta) if theta else None,
        "lr": rates,
        "seconds": round(sums.seconds, 3),
        "images_per_second": round(sums.images / max(sums.seconds, 1e-9), 1),
    }


def is_finite(step: StepResult) -> bool:
    """Whether both losses of a step are numbers."""
    return math.isfinite(step.clean_loss) and math.isfinite(step.adversarial_loss or 0.0)
