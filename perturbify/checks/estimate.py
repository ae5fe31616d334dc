"""How long a check will take, before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perturbify.attacks import attacked, input_gradient
from perturbify.checks.plan import CheckPlan
from perturbify.checks.trials import Trial


@dataclass(frozen=True)
class Estimate:
    """What is to be done, and how long it may take.

    Attributes:
        costs: Seconds for each piece of work, in order.
    """

    costs: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Of all of them."""
        return sum(self.costs)


def estimate(
    model: nn.Module, x: Tensor, y: Tensor, work: Sequence[tuple[Trial, int]], plan: CheckPlan, draws: int
) -> Estimate:
    """Times one pass forward and one with a gradient on a real batch, and counts passes.

    Args:
        model: The network.
        x: A batch of images, shape (N, C, H, W).
        y: Its labels, shape (N,).
        work: Trials, and how many images each piece of work has.
        plan: How images are scored.
        draws: Forwards that the network takes for one answer.

    Returns:
        The seconds to expect.
    """
    with attacked(model):
        forward = _seconds(lambda: _forward(model, x)) / len(x)
        gradient = _seconds(lambda: input_gradient(model, x, y)) / len(x)
    costs = []
    for trial, images in work:
        seconds = forward * (plan.draws * draws if trial.noisy else 1)
        if (
            trial.noisy and trial.role != "sweep" and draws == 1
        ):  # of the further queries, those images that last are asked
            seconds += forward * max(0, max(plan.queries) - plan.draws) * (0.5 if trial.attack is None else 0.2)
        if trial.attack is not None:
            passes = trial.attack.passes
            averaged = plan.frozen_draws if trial.crafted_on == "frozen noise" else 1
            seconds += averaged * (passes.forward * forward + passes.gradient * gradient)
        costs.append(images * seconds)
    return Estimate(tuple(costs))


@torch.no_grad()
def _forward(model: nn.Module, x: Tensor) -> None:
    model(x)


def _seconds(run: Callable[[], object]) -> float:
    run()  # the first pass is slower
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
