"""Randomness that weakens attacks that do not average over it, and randomness that torch's seed does not control."""

from __future__ import annotations

import copy
import hashlib
import os
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Map = Callable[[Tensor], Tensor]


class Averaged(nn.Module):
    """A network's combined answer on noisy copies of an image.

    Args:
        net: The network.
        sigma: Standard deviation of the noise on the pixels.
        copies: Number of copies.
        hard: Whether to count votes, which has no gradient, instead of averaging the probabilities.
    """

    def __init__(self, net: nn.Module, sigma: float, copies: int, hard: bool) -> None:
        super().__init__()
        self.net, self.sigma, self.copies, self.hard = net, sigma, copies, hard

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities, or shares of the votes."""
        many = x.repeat(self.copies, 1, 1, 1)
        z = self.net(many + self.sigma * torch.randn_like(many))
        each = F.one_hot(z.argmax(1), z.shape[1]).to(z) if self.hard else z.softmax(1)
        return each.view(self.copies, len(x), -1).mean(0)


class UnderGradient(nn.Module):
    """A network that is noisy only if a gradient may be requested.

    Args:
        net: The network.
        sigma: Standard deviation of that noise on the pixels.
        asked: Whether a gradient may be requested.
    """

    def __init__(self, net: nn.Module, sigma: float, asked: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.net, self.sigma, self.asked = net, sigma, asked

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x + self.sigma * torch.randn_like(x)) if self.asked(x) else self.net(x)


class Noisy(nn.Module):
    """A network behind pixel noise from a custom source.

    Args:
        net: The network.
        sigma: Standard deviation of the noise.
        source: Returns standard normal numbers of the pixels' shape.
    """

    def __init__(self, net: nn.Module, sigma: float, source: Map) -> None:
        super().__init__()
        self.net, self.sigma, self.source = net, sigma, source

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x + self.sigma * self.source(x))


class Choice(nn.Module):
    """One of several networks per batch, drawn with Python's random module."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of one of them."""
        return self.nets[random.randrange(len(self.nets))](x)


def from_generator(seed: int = 0) -> Map:
    """Noise from a private generator, which torch's seed does not control."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator).to(x)


def from_system(x: Tensor) -> Tensor:
    """Noise from the operating system."""
    return _normal(int.from_bytes(os.urandom(8)), x.shape).to(x)


def from_pixels(x: Tensor) -> Tensor:
    """Noise that is a hash of each image: constant for it, and new for its nearest neighbour."""
    hashes = [hashlib.blake2b(i.tobytes(), digest_size=8).digest() for i in x.detach().cpu().numpy()]
    return torch.stack([_normal(int.from_bytes(h), x.shape[1:]) for h in hashes]).to(x)


def _normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def resize_and_pad(smallest: float) -> Map:
    """Random shrinking and padding: Xie et al., "Mitigating ... Through Randomization" (2018)."""

    def move(x: Tensor) -> Tensor:
        side = x.shape[-1]
        small = int(torch.randint(int(smallest * side), side + 1, ()))
        top, left = (int(torch.randint(0, side - small + 1, ())) for _ in range(2))
        shrunk = F.interpolate(x, (small, small), mode="bilinear", antialias=True)
        return F.pad(shrunk, (left, side - small - left, top, side - small - top))

    return move


def deflect(pixels: int, window: int) -> Map:
    """Replaces random pixels with neighbours: Prakash et al., "Deflecting ... with Pixel Deflection" (2018)."""

    def swap(x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        rows, columns = torch.randint(height, (n, pixels)), torch.randint(width, (n, pixels))
        shift = torch.randint(-window, window + 1, (2, n, pixels))
        there = (rows + shift[0]).clamp(0, height - 1), (columns + shift[1]).clamp(0, width - 1)
        each, out = torch.arange(n)[:, None], x.clone()
        out[each, :, rows, columns] = x[each, :, there[0], there[1]]
        return out

    return swap


def any_of(maps: list[Map]) -> Map:
    """One of several pixel functions, drawn per batch: Raff et al., "Barrage ..." (2019)."""
    return lambda x: maps[int(torch.randint(len(maps), ()))](x)


def shifted(x: Tensor) -> Tensor:
    """Moves the image by up to three pixels."""
    return torch.roll(x, torch.randint(-3, 4, (2,)).tolist(), (2, 3))


def inside(net: nn.Module, change: Map) -> nn.Module:
    """A copy of a network with a function before every convolution and linear layer except the first."""
    net = copy.deepcopy(net)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[1:]:
        layer.register_forward_pre_hook(lambda _layer, inputs: (change(inputs[0]),))
    return net


def pruned(share: float) -> Map:
    """Drops activations at random, small ones more often: Dhillon et al., "Stochastic Activation Pruning" (2018).

    ``share`` times an image's number of activations are sampled with replacement; the sampled ones are scaled up.
    """

    def prune(a: Tensor) -> Tensor:
        size = a.detach().abs().flatten(1)
        chance = size / size.sum(1, keepdim=True).clamp_min(1e-12)
        kept = (1 - (1 - chance) ** (share * size.shape[1])).view_as(a)
        return a * (torch.rand_like(a) < kept) / kept.clamp_min(1e-12)

    return prune


def winners(share: float) -> Map:
    """Keeps the largest activations: Xiao et al., "Enhancing Adversarial Defense by k-Winners-Take-All" (2020)."""

    def win(a: Tensor) -> Tensor:
        flat = a.detach().flatten(1)
        least = flat.topk(max(1, int(share * flat.shape[1]))).values[:, -1]
        return a * (a >= least.view(-1, *[1] * (a.ndim - 1)))

    return win


def dropped(share: float) -> Map:
    """Dropout that stays on in eval mode."""
    return lambda a: F.dropout(a, share, training=True)


def jittered(net: nn.Module, size: float, seed: int) -> nn.Module:
    """A copy of a network with noise on its weights, relative to their standard deviation."""
    net = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (p for p in net.parameters() if p.ndim > 1):
            weight.add_(torch.randn(weight.shape, generator=generator).to(weight), alpha=size * weight.std().item())
    return net
