"""How long the check of a network will take once it is trained."""

from __future__ import annotations

import torch

from perturbify.attacks import randomness
from perturbify.checks.cases import ITSELF, Subject, cases
from perturbify.checks.evaluate import Attacked, Bench, seed_of
from perturbify.checks.intake import classifier
from perturbify.checks.plan import CheckPlan
from perturbify.data import Data
from perturbify.generators import seeded
from perturbify.surgery.noisy import Perturbed

TIMED = 32
"""Images in a timed pass."""


def forecast(network: Perturbed, data: Data, plan: CheckPlan) -> float:
    """Estimates a check's time from two forward passes and two with a gradient on a few images.

    The network's modes, buffers and gradients, and the random state, are restored.

    Args:
        network: The network to be checked, trained or not.
        data: The images.
        plan: The check's plan.

    Returns:
        Seconds on this machine, in one process.
    """
    device = next(network.parameters()).device
    split = data.test.interleaved()
    if plan.images is not None and plan.images < len(split):
        split = split.subset(torch.arange(plan.images))
    with seeded(seed_of(plan.seed, "forecast"), [device]):
        x, _ = next(split.batches(min(4, len(split))))
        x = x.to(device)
        target = classifier(network, x)
        kind = randomness(target, x)
        noisy = kind in ("fresh", "shared", "weights")
        subject = Subject(noisy, noisy, kind in ("fresh", "shared"), len(data.classes), ())
        chosen = tuple(case for case in cases(plan, subject) if case.source is None)
        bench = Bench({ITSELF: Attacked(target, noisy, False)}, split, plan, device, data.classes, chosen)
        return bench.expected(bench.jobs(), TIMED).seconds
