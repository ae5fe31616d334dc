"""Trial inputs of a network: a batch of images, two batches, or a list."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from perturbify.zoo.names import constructor
from perturbify.zoo.spec import SPEC


def example_input(model: nn.Module, size: tuple[int, ...], *, images: int = 2, seed: int = 0) -> tuple[Any, ...]:
    """Makes positional inputs for a network in eval mode, from random pixels in [0, 1].

    Args:
        model: A network. Among torchvision's, a detector gets a list of images and a network for optical flow two
            batches; anything else gets one batch.
        size: Size of one image, (C, H, W), or (C, T, H, W) for video.
        images: How many.
        seed: Seed of the pixels.
    """
    pixels = torch.rand(images, *size, generator=torch.Generator().manual_seed(seed))
    kind = takes(model)
    if kind == "detection":
        return (list(pixels),)
    return (pixels, pixels.flip(-1)) if kind == "optical_flow" else (pixels,)


def takes(model: nn.Module) -> str:
    """Which torchvision package a network comes from (``"detection"``, ``"video"``, …); empty for all others."""
    spec = getattr(model, SPEC, None)
    if spec is None or not spec.name.startswith("torchvision:"):
        return ""
    rooms: list[str] = constructor(spec.name).__module__.split(".")
    return rooms[2] if len(rooms) == 4 else ""
