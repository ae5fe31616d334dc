"""A network of another library, as its module returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Network:
    """A small network with random weights, and its inputs.

    Attributes:
        model: The network.
        inputs: Positional inputs, or keyword inputs.
        arguments: Build arguments that differ from the library's defaults.
    """

    model: nn.Module
    inputs: tuple[Any, ...] | dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, Any]:
        """The inputs as JSON values, with each tensor given by its shape."""
        named = self.inputs if isinstance(self.inputs, Mapping) else {str(i): v for i, v in enumerate(self.inputs)}
        sizes: dict[str, Any] = pytree.tree_map(lambda v: list(v.shape) if isinstance(v, Tensor) else v, dict(named))
        return sizes


def images(*size: int) -> Tensor:
    """Two fixed images of random pixels in [0, 1]."""
    return torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
