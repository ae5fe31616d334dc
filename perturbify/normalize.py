"""Normalisation as a layer, so that attacks, data and checkpoints all work on pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel.

    Args:
        mean: One number a channel, for pixels in [0, 1].
        std: One positive number a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"mean {mean} and std {std} need one number a channel each, std positive")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    @property
    def constants(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std, one number a channel, in the fewest digits that keep their values."""
        mean, std = (tuple(float(str(v)) for v in x.flatten().float().cpu().numpy()) for x in (self.mean, self.std))
        return mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Normalises pixels of shape (..., C, H, W)."""
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def extra_repr(self) -> str:
        """Shows both vectors."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def normalized(network: nn.Module, normalize: Normalize) -> nn.Module:
    """A network with a normalisation layer before it, which is on its device."""
    device = next((p.device for p in network.parameters()), None)
    return nn.Sequential(normalize.to(device), network).train(network.training)
