"""Can the gradients be trusted? Tested on every network before any attack follows them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perturbify.checks.evidence import Criterion, fraction
from perturbify.checks.probe import ask

ALIVE = "the gradient is alive"

DEAD_AT_MOST, MISLED_AT_MOST, OFF_AT_MOST = 0.05, 0.1, 0.2
"""The most images that may lack a gradient, be misled by it, or have a loss that does not follow it, as shares."""


def gradients(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, seeds: Sequence[int], size: int | None = None
) -> tuple[Criterion, ...]:
    """Tests the gradients of a network on its images.

    Args:
        model: A classifier; its noise stays as it is set.
        x: Images, shape (N, C, H, W), in [0, 1].
        y: True labels, shape (N,).
        epsilon: Radius of the attacks' l∞ ball; the steps here are an eighth of it or less.
        seeds: Seeds of the draws to average, the same before and after a step; without noise one is enough.
        size: Images in a forward; None takes all at once.

    Returns:
        Three criteria: the gradients are there, a step along them helps, the loss falls as they predict.
    """
    generator = torch.Generator().manual_seed(seeds[0])

    def anywhere() -> Tensor:
        return torch.rand(x.shape, generator=generator).to(x) * 2 - 1

    # Every other image is moved a little: attacks soon leave the images themselves, and their grid of grey levels.
    x = x.clone()
    x[::2] = (x + epsilon / 2 * anywhere()).clamp(0, 1)[::2]
    here = ask(model, x, y, seeds, gradient=True, size=size)
    assert here.gradient is not None and here.entropy is not None
    gradient, margins = here.gradient.float().nan_to_num(), here.margins.mean(0)
    step = epsilon / 8

    def after(change: Tensor) -> tuple[Tensor, Tensor]:
        """The mean margins after a change, and the change that is left after clamping."""
        moved = (x + change).clamp(0, 1)
        return ask(model, moved, y, seeds, size=size).margins.mean(0), moved - x

    downhill = -gradient.sign()
    along, (aside, _) = [after(step * size * downhill) for size in (1.0, 0.25, 0.0625)], after(step * anywhere().sign())
    helped = (along[0][0] < margins) & (along[0][0] < aside)
    true = torch.zeros_like(helped)
    for margin, change in along[1:] if here.exact else along[:1]:  # small steps drown in bfloat16's rounding
        ratio = (margin - margins) / (gradient * change).flatten(1).sum(1)
        true |= (ratio > 0.5) & (ratio < 2)
    return (
        Criterion(
            ALIVE,
            "Attacks that follow the gradient have nothing to follow; their figures mean nothing.",
            (
                fraction("images without a usable gradient of the margin", _dead(here.gradient), most=DEAD_AT_MOST),
                fraction(
                    "images without a usable gradient of the cross-entropy", _dead(here.entropy), most=DEAD_AT_MOST
                ),
            ),
        ),
        Criterion(
            "a step along the gradient helps more than a random one",
            "The gradient misleads: attacks that follow it go nowhere.",
            (
                fraction(
                    "images whose margin it does not lower by more than a random step",
                    ~helped.cpu(),
                    most=MISLED_AT_MOST,
                ),
            ),
        ),
        Criterion(
            "the loss falls as the gradient predicts",
            "The gradient does not belong to the network's answers.",
            (
                fraction(
                    "images where it falls by less than half or more than twice the prediction",
                    ~true.cpu(),
                    most=OFF_AT_MOST,
                ),
            ),
        ),
    )


def _dead(gradient: Tensor) -> Tensor:
    """For which images a gradient is zero or not finite; all of them if several images have the same one."""
    flat = gradient.flatten(1).cpu()
    dead = ~flat.isfinite().all(1) | (flat == 0).all(1)
    return torch.ones_like(dead) if len(flat) > 1 and (flat == flat[:1]).all() else dead
