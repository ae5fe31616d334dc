"""Figures on held-out training images, to choose the best epoch without looking at the test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from perturbify.attacks import Pgd, frozen_eval, pgd
from perturbify.data import Split
from perturbify.generators import seeded
from perturbify.perturbation import noise
from perturbify.settings import Recipe
from perturbify.training.seeds import derive


def classify(model: nn.Module, images: Split, recipe: Recipe, epoch: int, batch_size: int) -> dict[str, Any]:
    """Accuracy on clean images and under the attack of training, noise on, each by one draw.

    The network and the caller's generators are left as they were; the same epoch draws the same numbers.

    Args:
        model: The network.
        images: The held-out images.
        recipe: Attack and seed.
        epoch: From 0.
        batch_size: Images per batch.

    Returns:
        ``n``, ``clean_accuracy`` and ``adversarial_accuracy``, the latter two in [0, 1].
    """
    a = recipe.attack
    attack = Pgd(a.epsilon, a.step_size, a.steps, a.random_start)
    device = next(model.parameters()).device
    right = {"clean": 0, "adversarial": 0}
    with seeded(derive(recipe.seed, "held out", epoch), [device]), noise(model, enabled=True):
        for x, y in images.batches(batch_size):
            x, y = x.to(device), y.to(device)
            for name, seen in (("clean", x), ("adversarial", pgd(model, x, y, attack))):
                with frozen_eval(model), torch.no_grad():
                    right[name] += int((model(seen).argmax(1) == y).sum())
    return {"n": len(images)} | {f"{name}_accuracy": hits / len(images) for name, hits in right.items()}


def best_epoch(metrics: Sequence[dict[str, Any]]) -> int | None:
    """The epoch with the greatest adversarial accuracy on the held-out images, the first of equals.

    Args:
        metrics: One entry an epoch.

    Returns:
        Its number, from 0; None where none were held out.
    """
    scored = [(m["held_out"]["adversarial_accuracy"], -m["epoch"]) for m in metrics if m.get("held_out")]
    return -max(scored)[1] if scored else None
