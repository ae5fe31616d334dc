"""The same draws and the same kernels, run after run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

SEED = 0


@contextmanager
def reproducible(model: nn.Module) -> Iterator[None]:
    """Fixes what a forward pass draws and which kernels it picks; the caller's generators are as before afterwards."""
    devices = {p.device for p in model.parameters() if p.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    with (
        torch.random.fork_rng(devices=[d.index for d in devices]),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        torch.no_grad(),
    ):
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
