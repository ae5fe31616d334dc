"""How many channels a network's images have."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from perturbify.normalize import Normalize


def channels(model: nn.Module) -> int | None:
    """The channels that a network takes, as its normalisation or else its first convolution says.

    Args:
        model: Any network; its parts are looked at in the order in which they were registered.

    Returns:
        1 for grey images, 3 for colours, any other number; None where neither layer is there.
    """
    for module in model.modules():
        if isinstance(module, Normalize) and module.mean.numel() > 1:
            return module.mean.numel()
        if isinstance(module, _ConvNd):
            return module.in_channels or None  # a lazy one has none yet
    return None
