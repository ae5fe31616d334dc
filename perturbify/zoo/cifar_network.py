"""Common parts of the built-in networks for 32×32 images."""

from __future__ import annotations

from torch import nn

from perturbify.errors import ModelError


class CifarNetwork(nn.Module):
    """A classifier of 32×32 images, normalised as CIFAR.

    Args:
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A count is not positive.
    """

    def __init__(self, num_classes: int, in_chans: int) -> None:
        if num_classes < 1 or in_chans < 1:
            raise ModelError(f"num_classes={num_classes} and in_chans={in_chans} must be at least 1.")
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans

    def start_convolutions_(self) -> None:
        """Draws the weights of all convolutions from N(0, √(2/(k²·out)))."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
