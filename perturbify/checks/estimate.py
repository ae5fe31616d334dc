"""How long a check will take, before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perturbify.attacks import frozen_eval, input_gradient
from perturbify.checks.cases import Case
from perturbify.checks.plan import CheckPlan
from perturbify.errors import ModelError

STANDING = 0.5
"""Assumed share of images still standing, for an attack that skips the others."""


@dataclass(frozen=True)
class Estimate:
    """The work to do, and how long it may take.

    Attributes:
        costs: Seconds for each piece of work, in order.
    """

    costs: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Seconds for all of it."""
        return sum(self.costs)


def estimate(
    model: nn.Module, x: Tensor, y: Tensor, work: Sequence[tuple[Case, int, int]], plan: CheckPlan, per_answer: int
) -> Estimate:
    """Times a forward pass and one with a gradient on a real batch, and counts passes.

    Args:
        model: The network.
        x: A batch of images, shape (N, C, H, W).
        y: Its labels, shape (N,).
        work: Cases, the images in each piece of work, and the draws that score each.
        plan: How images are scored.
        per_answer: Forward passes per answer.

    Returns:
        The seconds to expect.
    """
    with frozen_eval(model):
        forward = _seconds(lambda: _forward(model, x)) / len(x)
        gradient = _seconds(lambda: _gradient(model, x, y)) / len(x)
    costs = []
    for case, images, draws in work:
        seconds = forward * draws * (per_answer if draws > 1 else 1)
        if case.id == "clean" and per_answer == 1:  # further queries go to the images that last
            seconds += 0.5 * forward * max(0, max(plan.queries) - draws)
        if case.attack is not None:
            passes = case.attack.passes
            averaged = plan.frozen_draws if case.on == "frozen" else 1
            seconds += averaged * (passes.forward * forward + passes.gradient * gradient)
        costs.append(images * seconds * (STANDING if case.standing else 1))
    return Estimate(tuple(costs))


@torch.no_grad()
def _forward(model: nn.Module, x: Tensor) -> None:
    model(x)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> None:
    try:
        input_gradient(model, x, y)
    except ModelError:
        _forward(model, x)  # it has no gradient, and none of its attacks needs one


def _seconds(run: Callable[[], object]) -> float:
    run()  # the first pass is slower
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
