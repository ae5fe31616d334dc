"""Copies of networks, also of those that keep results of a computation as attributes."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from perturbify.errors import SurgeryError

Network = TypeVar("Network", bound=nn.Module)


def copy_network(model: Network) -> Network:
    """Copies a network in depth.

    A tensor that autograd computed (an attention bias that is cached in eval mode, a weight that an old-style
    ``weight_norm`` hook keeps) cannot be deep-copied; its value is, and the next forward computes it anew.

    Raises:
        SurgeryError: The network holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            for leaf in pytree.tree_leaves(value):
                if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                    memo[id(leaf)] = leaf.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and perturbify works on copies.",
            "Make it support copy.deepcopy.",
        ) from error
