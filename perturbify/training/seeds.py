"""Random numbers of a run, as functions of its seed and its position.

Every step reseeds the generators of torch, Python and numpy from (seed, epoch, step). A run that was killed and resumed
in the middle of an epoch therefore draws what the uninterrupted run would have drawn, on any device, without saved
generator state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive(*parts: object) -> int:
    """A 63-bit seed from anything that prints the same everywhere."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def private_generators() -> Iterator[None]:
    """Restores the caller's random generators, whatever is seeded and drawn inside."""
    # torch.manual_seed reaches every GPU, not only the one used for training.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Inside, a network is built with the initial weights of the run with this seed."""
    with private_generators():
        _seed_all(derive(seed, "weights"))
        yield


def seed_step(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Seeds the global generators that a network may draw from, on the CPU and every GPU, for a process's step."""
    _seed_all(derive(seed, "step", epoch, step, *([rank] if rank else [])))


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    """The order of n images in an epoch, int64."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
