"""Limits on what an untrusted network may cost: modules, numbers, calls."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from perturbify.checkpoint.container import Shape
from perturbify.errors import CheckpointError

CALLS = 30_000
"""Operators that a network may call in all forward passes of a trial run."""


class _OverError(Exception):
    """The budget is exceeded."""


class Budget(TorchDispatchMode):
    """Counts what a network computes inside a ``with`` block, and stops it when that is too much.

    Args:
        calls: Operators that may be called.
        numbers: Numbers in all their results.
        at_once: Numbers in one result.

    Attributes:
        used: Numbers so far.
        over: Whether the budget was exceeded, even if the exception was caught elsewhere.
    """

    def __init__(self, calls: int = CALLS, numbers: float = math.inf, at_once: float = math.inf) -> None:
        super().__init__()
        self.calls, self.numbers, self.at_once = calls, numbers, at_once
        self.used, self.over = 0, False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operator and counts its results."""
        if self.over:
            raise _OverError
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
        self.calls -= 1
        self.used += sum(sizes)
        if self.calls < 0 or self.used > self.numbers or max(sizes, default=0) > self.at_once:
            self.over = True
            raise _OverError
        return out


@contextmanager
def no_larger_than(shapes: Mapping[str, Shape], path: Path) -> Iterator[None]:
    """Stops a builder that creates far more modules, parameters or buffers than a file has tensors for.

    Args:
        shapes: Shapes of the file's tensors.
        path: The file, for the message.

    Raises:
        CheckpointError: It creates too many.
    """
    filled = [name for name, shape in shapes.items() if 0 not in shape]
    left = {
        "modules": 1_000 + 10 * len({name.rpartition(".")[0] for name in filled}),
        "numbers": 10**7 + 4 * sum(map(math.prod, shapes.values())),
    }
    here = threading.get_ident()

    def take(what: str, count: int) -> None:
        left[what] -= count
        if left[what] < 0 and threading.get_ident() == here:
            raise CheckpointError(
                f"{path} contradicts itself: its network would be far larger than its tensors.",
                "Download the file again.",
            )

    def a_module(_module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        take("modules", 1)

    def a_tensor(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        take("numbers", 0 if tensor is None or is_lazy(tensor) else tensor.numel())

    handles = (
        register_module_module_registration_hook(a_module),
        register_module_parameter_registration_hook(a_tensor),
        register_module_buffer_registration_hook(a_tensor),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
