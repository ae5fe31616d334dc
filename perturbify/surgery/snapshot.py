"""What modules hold in their attributes, to see whether a forward changed it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class Snapshot:
    """Remembers the attributes and buffers of modules, by identity, and how many entries their containers have.

    Args:
        modules: Whose; the constants that torch.fx puts on a module are left out.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._held, self._sizes = self._look()

    def changed(self) -> bool:
        """Whether an attribute was set, replaced or deleted since, or a container grew or shrank."""
        held, sizes = self._look()
        return sizes != self._sizes or any(a is not b for a, b in zip(held, self._held, strict=True))

    def _look(self) -> tuple[list[Any], list[int]]:
        held: list[Any] = []
        for module in self._modules:
            attributes = vars(module)
            if "_tensor_constant0" in attributes:
                held += [value for name, value in attributes.items() if not name.startswith("_tensor_constant")]
            else:
                held += attributes.values()
            held += module._buffers.values()
        return held, [len(held), *(len(v) for v in held if type(v) in (dict, list, set))]
