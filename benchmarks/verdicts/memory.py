"""Classifiers that remember earlier queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH = 2048


class Remembering(nn.Module):
    """A network that repeats its earlier answer for an image near one it has seen.

    Args:
        net: The network.
        near: Largest difference of the shrunken images that counts as near.
        patience: Number of near images that still get their own answer.
        invent: Whether to return the remembered class with noise for the other logits, instead of the remembered
            logits.
    """

    def __init__(self, net: nn.Module, near: float = 0.04, patience: int = 0, invent: bool = False) -> None:
        super().__init__()
        self.net, self.near, self.patience, self.invent = net, near, patience, invent
        self.seen: Tensor | None = None
        self.answers = torch.empty(0)
        self.asked = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        z = self.net(x)
        key = F.adaptive_avg_pool2d(x.detach(), 8).flatten(1)
        if self.seen is None:
            self.seen, self.answers, self.asked = key[:0], z.detach()[:0], key[:0, 0]
        known = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if len(self.seen):
            distance, which = torch.cdist(key, self.seen, p=float("inf")).min(1)
            known = distance <= self.near
            self.asked.index_add_(0, which[known], self.asked.new_ones(int(known.sum())))
            tired = known & (self.asked[which] > self.patience)
            z = torch.where(tired[:, None], self._recalled(which), z)
        self.seen = torch.cat([self.seen, key[~known]])[-LENGTH:]
        self.answers = torch.cat([self.answers, z.detach()[~known]])[-LENGTH:]
        self.asked = torch.cat([self.asked, key.new_zeros(int((~known).sum()))])[-LENGTH:]
        return z

    def _recalled(self, which: Tensor) -> Tensor:
        z = self.answers[which]
        if not self.invent:
            return z
        return torch.rand_like(z) + 2 * F.one_hot(z.argmax(1), z.shape[1])


class Lookup(nn.Module):
    """A network that looks up images by a coarse version, and computes only those it has not seen.

    Args:
        net: The network.
        levels: Colour levels of the coarse image.
        side: Its side in pixels.
    """

    def __init__(self, net: nn.Module, levels: int = 2, side: int = 4) -> None:
        super().__init__()
        self.net, self.levels, self.side = net, levels, side
        self.table: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        z = self.net(x)
        coarse = (F.adaptive_avg_pool2d(x.detach(), self.side) * self.levels).round().byte().flatten(1)
        keys = [k.tobytes() for k in coarse.cpu().numpy()]
        new = torch.tensor([k not in self.table for k in keys], device=x.device)
        for key, answer in zip(keys, z.detach(), strict=True):
            self.table.setdefault(key, answer)
        return torch.where(new[:, None], z, torch.stack([self.table[k] for k in keys]))
