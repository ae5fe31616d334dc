"""Which models: all, those of a glob, or a sample with every family that is known to be hard."""

from __future__ import annotations

import random

HARD = ("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",)


def sample(names: list[str], size: int, seed: int) -> list[str]:
    """Draws models: those known to be hard first, then others at random.

    Args:
        names: To draw from.
        size: How many.
        seed: Of the draw.
    """
    hard = [n for n in HARD if n in names]
    rest = sorted(set(names) - set(hard))
    return sorted(hard + random.Random(seed).sample(rest, min(len(rest), max(0, size - len(hard)))))
