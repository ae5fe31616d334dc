"""Sharing a check's batches out among processes that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Shard:
    """Which of several processes this is.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    def mine(self, number: int) -> bool:
        """Whether the piece of work of that number is this process's."""
        return number % self.world == self.rank

    def gather(self, found: list[Any]) -> list[Any]:
        """What all processes have found; waits for all of them."""
        if self.world == 1:
            return found
        theirs: list[Any] = [None] * self.world
        dist.all_gather_object(theirs, found)
        return [item for part in theirs for item in part]


@contextmanager
def shard() -> Iterator[Shard]:
    """This process among those of torchrun, or the only one; joins them where nobody has yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized():
        yield Shard()
        return
    joining = not dist.is_initialized()
    if joining:
        # gloo gathers Python objects on any machine; one process may be done long before another.
        dist.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
    finally:
        if joining:
            dist.destroy_process_group()
