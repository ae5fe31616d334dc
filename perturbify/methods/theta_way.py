"""How far θ moves in a run, and how a short run covers the full schedule.

The regulariser alone moves θ so that θ^1.5 = θ₀^1.5 + ¾ Σ (step size · γ / τ), summed over the steps: where θ ends
depends on their number. With the constants of the authors' release it goes from 0.25 to 1.06 in the 330 noisy epochs
of the full schedule, and hardly moves in a run of minutes. A run of another length therefore multiplies θ's learning
rate by the ratio of the numbers of steps, for the gradients of both the loss and the regulariser, and reads τ where the
full schedule would be after the same fraction of its length (docs/constants.md).

The factor is limited by ``train.theta_rate_limit``. The gradient of the loss is mostly noise. Its effect on a single θ
grows with the square root of the factor, while the regulariser's effect on all of them stays what it is in the full
schedule.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache
from itertools import accumulate

from perturbify.settings import Recipe, TrainSettings

REFERENCE_BATCH = 128
"""Batch size for which γ is given."""

EPOCHS, WARM_UP, STEPS = 350, 20, 391
"""The full schedule: the release's epochs and, at 50,000 images, steps per epoch; the paper's warm-up."""

START = 0.25
_RATE, _MOMENTUM, _MILESTONES, _DECAY, _GAMMA = 0.1, 0.9, (150, 250), 0.1, 1e-4  # the release's, on θ


def pace(recipe: Recipe, images: int, *, warms_up: bool) -> float:
    """The factor on θ's learning rate in a run.

    Args:
        recipe: The run's.
        images: Its number of training images.
        warms_up: Whether the noise is off in the first ``warmup_epochs``, as in the method whose schedule this is.
    """
    if not warms_up or recipe.train.theta_schedule == "plain":
        return 1.0
    return min(fewer(recipe, images), recipe.train.theta_rate_limit)


def planned(recipe: Recipe, images: int, *, warms_up: bool) -> str | None:
    """What a run does to θ's learning rate, in a sentence; None if nothing.

    Args:
        recipe: The run's.
        images: Its number of training images.
        warms_up: As for :func:`pace`.
    """
    faster = pace(recipe, images, warms_up=warms_up)
    if abs(faster - 1) < 0.01:
        return None
    whole = fewer(recipe, images)
    limit = f", limited from {whole:.0f} by train.theta_rate_limit" if faster < whole else ""
    return f"θ's learning rate is multiplied by {faster:.3g} for the length of the run{limit}"


def fewer(recipe: Recipe, images: int) -> float:
    """The ratio of the images that θ's steps see in the full schedule to those in a run.

    Args:
        recipe: The run's.
        images: Its number of training images.
    """
    train = recipe.train
    whole, rest = divmod(images, train.batch_size)
    steps = whole + (rest > 1 or whole == 0)  # a last batch of one image is skipped
    fraction = 1.0 if train.joint else train.theta_steps / (train.w_steps + train.theta_steps)
    return EPOCHS * STEPS * REFERENCE_BATCH / (train.epochs * steps * train.batch_size * fraction)


def tau_epoch(epoch: int, train: TrainSettings, *, warms_up: bool) -> int:
    """k of the harmonic τ = H_k in an epoch, counted from 0.

    Args:
        epoch: From 0.
        train: The run's length and where its τ starts to count.
        warms_up: Whether the noise is off in the first ``warmup_epochs``.
    """
    first = train.warmup_epochs if warms_up and train.tau_from == "noise" else 0
    k = epoch - first + 1
    return math.ceil((k - 0.5) * EPOCHS / train.epochs) if warms_up and train.theta_schedule == "scaled" else k


def harmonic(k: int) -> float:
    """The harmonic number τ = H_k = 1 + 1/2 + … + 1/k (Learn2Perturb, eq. 8).

    Args:
        k: 1 in the first epoch in which noise is active.
    """
    if k < 1:
        raise ValueError(f"τ is defined from the first noisy epoch, k = 1, on; not for k = {k}")
    return sum(1 / i for i in range(1, k + 1))


@cache
def full() -> tuple[float, ...]:
    """θ after each epoch of the full schedule, under the regulariser alone."""

    def grown(to_the_power: float, epoch: int) -> float:
        if epoch < WARM_UP:
            return to_the_power
        rate = _RATE / (1 - _MOMENTUM) * _DECAY ** sum(epoch >= m for m in _MILESTONES)
        return to_the_power + 0.75 * rate * _GAMMA * STEPS / harmonic(epoch - WARM_UP + 1)

    return tuple(p ** (2 / 3) for p in accumulate(range(EPOCHS), grown, initial=START**1.5))[1:]


def reached(theta: float) -> int:
    """The first epoch of the full schedule, from 1, after which its θ is as large; the last if it never is."""
    return min(bisect_left(full(), theta) + 1, EPOCHS)


def said(theta: float, start: float | str | None) -> str:
    """How far along the full schedule a mean θ is, in words.

    Args:
        theta: The mean.
        start: θ's initial value, ``theta_init``; from another value than the schedule's, there is no comparison.
    """
    if start != START:
        return f"not comparable with the full schedule, which starts at {START:g}, not at {start}"
    if theta <= START:
        return f"no farther than the start of the full schedule, {START:g}"
    if theta > full()[-1]:
        return f"beyond the end of the full schedule, {full()[-1]:.2f}"
    return f"as far as epoch {reached(theta)} of {EPOCHS} of the full schedule"
