"""Batches that other processes read ahead."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perturbify.errors import DataError

# Starting worker processes costs more than decoding this many images.
_TINY = 256


def read_in_workers(
    reader: Dataset[Tensor | DataError], batches: Sequence[list[int]], workers: int | None
) -> Iterator[Tensor]:
    """Reads batches, in other processes if that is faster.

    Args:
        reader: Returns the batch of some rows, or the error to raise.
        batches: The rows of each batch.
        workers: Processes; None: up to four, and none for a few images.
    """
    if workers is None:
        workers = 0 if sum(map(len, batches)) <= _TINY else min(4, _cpu_count())
    loader: DataLoader[Tensor | DataError] = DataLoader(
        reader,
        sampler=batches,
        batch_size=None,  # an item of the sampler is a whole batch already
        num_workers=workers,
        # The loader draws a seed for its workers; drawn from the global generator, it would make a run
        # resumed in mid-epoch differ from an uninterrupted one.
        generator=torch.Generator(),
        worker_init_fn=_outlive_sigterm,
        # Pinned memory is copied to a GPU while the GPU computes.
        pin_memory=workers > 0 and torch.cuda.is_available(),
    )
    for batch in _lasting(loader):
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _lasting(loader: DataLoader[Tensor | DataError]) -> Iterator[Tensor | DataError]:
    """A loader's batches; the death of one of its processes raises an error that says so."""
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        batches = iter(loader)
    except OSError as error:
        raise DataError(f"No process can be started to decode images: {error.strerror or error}.") from error
    if loader.num_workers and handler is not None and threading.current_thread() is threading.main_thread():
        # torch's handler would raise in the middle of whatever runs when a worker dies; without it, the code that
        # waits for the batch finds out.
        signal.signal(signal.SIGCHLD, handler)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                "A process that decodes images was killed, as systems do when memory runs out.",
                "Free memory; in a container, allow more, and more shared memory (docker run --shm-size=8g).",
            ) from error
        yield batch


def _outlive_sigterm(_worker: int) -> None:
    """Ignores SIGTERM, which may go to a whole process group: only the parent has something to save.

    A worker ends with its parent, or when its batches are done.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _cpu_count() -> int:
    """The CPUs that this process may use, on shared machines fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
