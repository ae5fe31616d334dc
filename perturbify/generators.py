"""The random number generators that a network may draw from."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def seeded(seed: int, devices: Collection[torch.device] = ()) -> Iterator[None]:
    """Seeds torch's, numpy's and Python's global generators inside a ``with`` block.

    They are restored afterwards, also after an error. Generators of other CUDA devices, which ``torch.manual_seed``
    would seed as well, are not touched.

    Args:
        seed: At least 0; numpy, which takes 32 bits, gets the lower ones.
        devices: Where the network and its inputs are; devices other than CUDA are ignored.
    """
    cuda = sorted({torch.cuda.current_device() if d.index is None else d.index for d in devices if d.type == "cuda"})
    # Other accelerators (mps, xpu) have one generator each that counts.
    others = [torch.get_device_module(kind) for kind in sorted({d.type for d in devices} - {"cpu", "meta", "cuda"})]
    python, numpy, accelerators = random.getstate(), np.random.get_state(), [o.get_rng_state() for o in others]
    with torch.random.fork_rng(devices=cuda):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            for index in cuda:
                torch.cuda.default_generators[index].manual_seed(seed)
            for other in others:
                other.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for other, state in zip(others, accelerators, strict=True):
                other.set_rng_state(state)


@contextmanager
def reproducible(model: nn.Module) -> Iterator[None]:
    """Fixes what a forward pass draws and which kernels it picks, without gradients.

    The caller's generators are restored afterwards.
    """
    with (
        seeded(0, {p.device for p in model.parameters()}),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        torch.no_grad(),
    ):
        yield
