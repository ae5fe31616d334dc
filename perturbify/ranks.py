"""Processes that torchrun started, and what they agree on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among several; alone it is the first of one, and everything below costs nothing.

    Attributes:
        rank: Its number, from 0.
        world: The number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def mine(self, number: int) -> bool:
        """Whether the work item of that number is this process's."""
        return number % self.world == self.rank

    def gather(self, found: T) -> list[T]:
        """Each process's value, by rank; waits for all of them."""
        if self.world == 1:
            return [found]
        theirs: list[T] = [found] * self.world
        dist.all_gather_object(theirs, found)
        return theirs

    def agree(self, value: T) -> T:
        """The first process's value, in all of them."""
        return self.gather(value)[0]

    def after_first(self, work: Callable[[], T]) -> T:
        """Does in the first process what must precede the others: downloading files, for instance."""
        done = [work()] if self.first else []
        self.gather(None)
        return done[0] if done else work()

    def any(self, *flags: bool, device: torch.device) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process."""
        if self.world == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8, device=device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors, floating and on one device, by their means over all processes, in one message."""
        if self.world == 1 or not tensors:
            return
        bucket = torch.cat([t.detach().float().flatten() for t in tensors])
        dist.all_reduce(bucket)
        bucket /= self.world
        for tensor, mean in zip(tensors, bucket.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    @torch.no_grad()
    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by those of the first process."""
        for tensor in tensors if self.world > 1 else ():
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """This process among those of torchrun, or the only one; joins their group if that has not been done."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized():
        yield Ranks()
        return
    joining = not dist.is_initialized()
    if joining:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        # One process may finish long before another: with its part of a check, or while the first one writes.
        dist.init_process_group(backend, timeout=timedelta(days=7))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        if joining:
            dist.destroy_process_group()
