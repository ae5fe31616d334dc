"""How many channels a network's images have."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from perturbify.normalize import Normalize


def channels(model: nn.Module) -> int | None:
    """The channels that a network takes, according to its normalisation or else its first convolution.

    Args:
        model: Any network; its modules are searched in the order of registration.

    Returns:
        1 for grey images, 3 for colour, or any other number; None if it has neither layer.
    """
    for module in model.modules():
        if isinstance(module, Normalize) and module.mean.numel() > 1:
            return module.mean.numel()
        if isinstance(module, _ConvNd):
            return module.in_channels or None  # a lazy one has none yet
    return None
