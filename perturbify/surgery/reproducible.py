"""The same draws and the same kernels, run after run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from perturbify.generators import seeded

SEED = 0


@contextmanager
def reproducible(model: nn.Module) -> Iterator[None]:
    """Fixes what a forward pass draws and which kernels it picks; the caller's generators are as before afterwards."""
    with (
        seeded(SEED, {p.device for p in model.parameters()}),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        torch.no_grad(),
    ):
        yield
