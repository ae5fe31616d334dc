"""A recipe's schedule, shortened in proportion, and its number of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from perturbify.methods import Method
from perturbify.settings import OptimizerSettings, Recipe


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with fewer epochs; warm-up, milestones and the attack's first epoch scale with them.

    Each is rounded to the nearest epoch. A learning rate that was used before it decayed is used for at least one
    epoch; noise and an attack that began before the end begin before the last epoch. Milestones that fall on one epoch
    count once, and those that fall on the end are left out.

    Args:
        recipe: Any recipe.
        epochs: The most epochs, at least 1.

    Returns:
        The recipe itself, if it has no more epochs than that.

    Raises:
        ValueError: ``epochs`` is less than 1.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")
    whole = recipe.train.epochs
    if epochs >= whole:
        return recipe

    def moved(epoch: int) -> int:
        return math.floor(epoch * epochs / whole + 0.5)

    def beginning(epoch: int) -> int:
        return min(moved(epoch), epochs - 1) if epoch < whole else moved(epoch)

    def decaying(settings: OptimizerSettings) -> OptimizerSettings:
        milestones = (max(moved(m), min(m, 1)) for m in settings.milestones)
        return replace(settings, milestones=tuple(dict.fromkeys(m for m in milestones if m < epochs)))

    return replace(
        recipe,
        train=replace(recipe.train, epochs=epochs, warmup_epochs=beginning(recipe.train.warmup_epochs)),
        optimizer=decaying(recipe.optimizer),
        theta_optimizer=decaying(recipe.theta_optimizer),
        attack=replace(recipe.attack, from_epoch=beginning(recipe.attack.from_epoch)),
    )


@dataclass(frozen=True)
class Steps:
    """How often W and θ are updated.

    Attributes:
        batches: Batches of all epochs.
        weights: Updates of W.
        thetas: Updates of θ.
    """

    batches: int
    weights: int
    thetas: int


def steps(recipe: Recipe, method: Method, images: int) -> Steps:
    """Counts the updates of a whole run, alternation and warm-up included.

    Args:
        recipe: How it trains.
        method: The defence.
        images: Number of training images.
    """
    train = recipe.train
    whole, rest = divmod(images, train.batch_size)
    epoch = whole + (rest > 1 or whole == 0)  # a last batch of one image is skipped
    batches = train.epochs * epoch
    if method.perturb is None or not method.perturb.learnable:
        return Steps(batches, batches, 0)
    if not method.alternates:
        return Steps(batches, batches, batches)
    noisy = (train.epochs - train.warmup_epochs) * epoch
    if train.joint:
        return Steps(batches, batches, noisy)
    turns, begun = divmod(noisy, train.w_steps + train.theta_steps)
    thetas = turns * train.theta_steps + max(0, begun - train.w_steps)
    return Steps(batches, batches - thetas, thetas)
