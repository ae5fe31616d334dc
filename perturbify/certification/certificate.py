"""Certified answers: many noisy forward passes vote, and their counts bound what a perturbation can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perturbify.attacks import frozen_eval
from perturbify.certification.bounds import certified_radius, clopper_pearson
from perturbify.certification.mechanism import find_mechanism, usable, verify
from perturbify.channels import channels
from perturbify.data import as_test
from perturbify.display import lines, some, spread
from perturbify.generators import seeded
from perturbify.perturbation import drawing_per
from perturbify.prediction import Prediction, read_logits
from perturbify.surgery.noisy import Perturbed
from perturbify.text import counted

CONFIDENCE = 0.95
"""Default probability that a certificate holds."""


@dataclass(frozen=True)
class Certificate:
    """The certified answers for N images, on the CPU.

    Attributes:
        classes: The class with the most votes, shape (N,), int64.
        votes: Number of draws that chose each class, shape (N, K), int64; a draw with NaN among its logits chooses
            none.
        probabilities: Mean softmax over the draws, shape (N, K).
        radii: Certified l2 radius of each answer in pixels of [0, 1], shape (N,), float64; 0: none.
        certain: Whether the class is the most probable one, at the stated confidence; shape (N,), bool.
        draws: Number of draws.
    """

    classes: Tensor
    votes: Tensor
    probabilities: Tensor
    radii: Tensor
    certain: Tensor
    draws: int

    def __repr__(self) -> str:
        n = len(self.classes)
        return lines(
            f"Certificate: {counted(n, 'image')}, {counted(self.draws, 'draw')}",
            [
                ("classes", some(self.classes[:9].tolist(), n)),
                ("certain", f"{int(self.certain.sum()):,} of {n:,}"),
                ("radii", f"{spread(self.radii.tolist())}; {int((self.radii > 0).sum()):,} above 0"),
            ],
        )

    @classmethod
    def joined(cls, parts: Sequence[Certificate]) -> Certificate:
        """Concatenates certificates from the same number of draws."""
        fields = ("classes", "votes", "probabilities", "radii", "certain")
        return cls(**{f: torch.cat([getattr(p, f) for p in parts]) for f in fields}, draws=parts[0].draws)


@dataclass(frozen=True)
class Progress:
    """Progress of certifying many images.

    Attributes:
        done: Images done so far.
        total: All images.
        seconds_left: Estimated time until all are done.
    """

    done: int
    total: int
    seconds_left: float


def predict_certified(network: Perturbed, images: Tensor, draws: int) -> Prediction:
    """Classifies images by a vote over ``draws`` draws, with the certified radius of each answer at 95% confidence.

    Args:
        network: With noise that certifies; while that is off, all radii are 0.
        images: Shape (N, C, H, W), in [0, 1].
        draws: At least 1; a few hundred are needed for a radius near the limit.

    Raises:
        MethodError: The network cannot be certified.
    """
    found = certify(network, images, draws)
    where = images.device
    return Prediction(
        found.classes.to(where), found.probabilities.to(where), draws, found.radii.to(where, torch.float32)
    )


@torch.no_grad()
def certify(
    network: Perturbed,
    images: Tensor,
    draws: int,
    *,
    confidence: float = CONFIDENCE,
    on_draw: Callable[[int], None] | None = None,
) -> Certificate:
    """Classifies images by a vote over ``draws`` draws, with the certified radius of each answer.

    The bounds on the classes' probabilities hold for all classes of an image at once, by Bonferroni's correction, so
    choosing the class with the same votes needs no further correction. Each image has draws of its own. The network
    runs in eval mode; its modes are restored afterwards. Random numbers come from torch's global generator.

    Args:
        network: With noise that certifies; while that is off, all radii are 0.
        images: Shape (N, C, H, W), in [0, 1].
        draws: At least 1.
        confidence: Probability, in (0, 1), that the certificate of an image holds.
        on_draw: Called after each forward pass, with the number so far.

    Raises:
        MethodError: The network cannot be certified; :func:`verify` first runs it on images of this size.
        ValueError: ``draws`` or ``confidence`` is outside its range.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    mechanism = verify(network, find_mechanism(network).on(images).size)
    sigma, sensitivity = mechanism.sigma, usable(mechanism.sensitivity)
    votes: Tensor | int = 0
    total: Tensor | int = 0
    with frozen_eval(network), drawing_per(network, "sample"):
        for draw in range(draws):
            logits = read_logits(network(images), type(network).__name__, len(images))
            valid = ~logits.isnan().any(1, keepdim=True)
            votes = votes + F.one_hot(logits.argmax(1), logits.shape[1]) * valid
            total = total + logits.softmax(1, dtype=torch.float32)
            if on_draw is not None:
                on_draw(draw + 1)
    assert isinstance(votes, Tensor) and isinstance(total, Tensor)
    votes = votes.cpu()
    classes = votes.argmax(1)
    low, high = clopper_pearson(votes.numpy(), draws, 1 - (1 - confidence) / votes.shape[1])
    rows = np.arange(len(votes))
    top = low[rows, classes]
    high[rows, classes] = 0
    other = high.max(1)
    radii = certified_radius(top, other, sigma=sigma, sensitivity=sensitivity)
    return Certificate(
        classes,
        votes,
        (total / draws).cpu(),
        torch.from_numpy(radii),
        torch.from_numpy(top > other),
        draws,
    )


def certify_split(
    network: Perturbed,
    images: Any,
    draws: int,
    *,
    confidence: float = CONFIDENCE,
    batch_size: int = 128,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Certificate:
    """Certifies the answers for all test images, batch by batch.

    Args:
        network: With noise that certifies.
        images: Test images as :func:`perturbify.data.as_test` takes them.
        draws: Per image, at least 1.
        confidence: Probability, in (0, 1), that the certificate of an image holds.
        batch_size: Images per batch.
        seed: Seed of all draws; the caller's generators are restored afterwards.
        on_progress: Called after each forward pass.

    Raises:
        MethodError: The network cannot be certified.
        DataError: There are no images, or they are not pixels in [0, 1] with labels.
        ValueError: ``draws`` or ``confidence`` is outside its range.
    """
    device = find_mechanism(network).convolution.weight.device
    split = as_test(images, channels=channels(network)).split
    started = time.perf_counter()
    parts: list[Certificate] = []
    with seeded(seed, {device}):
        for x, _ in split.batches(batch_size):
            done = sum(len(p.classes) for p in parts)

            def step(draw: int, done: int = done, now: int = len(x)) -> None:
                if on_progress is not None:
                    fraction = (done + now * draw / draws) / len(split)
                    left = (time.perf_counter() - started) * (1 / fraction - 1)
                    on_progress(Progress(done + now * (draw == draws), len(split), left))

            parts.append(certify(network, x.to(device), draws, confidence=confidence, on_draw=step))
    return Certificate.joined(parts)
