"""Networks compiled for the many gradients of an attack, and for training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from perturbify.attacks import frozen_eval, input_gradient


def uncompiled(network: nn.Module) -> nn.Module:
    """The network that :func:`compiled` was given; any other network itself."""
    return cast(nn.Module, getattr(network, "_orig_mod", network))


def compiled(network: nn.Module, x: Tensor, y: Tensor, *, cuda_graphs: bool = False) -> nn.Module:
    """The network with its forward and backward compiled, its parameters and noise modules the same objects.

    What was compiled before is discarded, and compiled again if it is still in use: dynamo takes the forwards of all
    our networks for one, and stops compiling it after a few times.

    Args:
        network: A classifier; it is left as it is.
        x: A batch of images to try it on, shape (N, C, H, W).
        y: Its labels, shape (N,).
        cuda_graphs: Whether CUDA graphs replay what was compiled.

    Raises:
        Exception: Any error of torch.compile; its errors have no common class.
    """
    torch.compiler.reset()
    before = set(vars(network))
    try:
        fast = cast(nn.Module, torch.compile(network, dynamic=False, mode="reduce-overhead" if cuda_graphs else None))
        with frozen_eval(network):
            input_gradient(fast, x, y)
    finally:
        for name in set(vars(network)) - before:  # torch.compile leaves a mark on the network itself
            delattr(network, name)
    return fast
