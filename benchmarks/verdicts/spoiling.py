"""Spoils an attacker's gradient but keeps the answers: wrong backward passes, and uninformative logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Map = Callable[[Tensor], Tensor]


class _Backward(torch.autograd.Function):
    """The identity, with its gradient passed through a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Map) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradients[0]), None


class Before(nn.Module):
    """A network behind a function of the pixels.

    Args:
        net: The network.
        change: The function.
        straight: Whether the gradient is straight-through (identity) instead of the function's own, if any.
    """

    def __init__(self, net: nn.Module, change: Map, straight: bool = False) -> None:
        super().__init__()
        self.net, self.change, self.straight = net, change, straight

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the changed pixels."""
        if self.straight:
            return self.net(x + (self.change(x.detach()) - x.detach()))
        return self.net(self.change(x))


class After(nn.Module):
    """A network followed by a function of the logits."""

    def __init__(self, net: nn.Module, change: Map) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        """The changed logits."""
        return self.change(self.net(x))


class Misled(nn.Module):
    """A network with its own answers but another input gradient.

    Args:
        net: The network.
        change: Maps the gradient to the one to report.
    """

    def __init__(self, net: nn.Module, change: Map) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.net(_Backward.apply(x, self.change))


class Decoy(nn.Module):
    """A network with its own answers but the gradient of an untrained one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.other = net, _untrained()

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        other = self.other(x)
        return other + (self.net(x.detach()) - other).detach()


class Sloped(nn.Module):
    """A network that reveals only its class, plus a slope from an untrained network.

    The gradient is correct, as finite differences show, but leads nowhere.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.other = net, _untrained()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return one_hot(self.net(x.detach())) + 0.4 * torch.tanh(self.other(x))


def _untrained() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip


class Batchwise(nn.Module):
    """A network whose gradient is correct for some batch sizes and zero for others.

    Args:
        net: The network.
        alone: Whether it is correct for batches of one image, instead of larger ones.
    """

    def __init__(self, net: nn.Module, alone: bool) -> None:
        super().__init__()
        self.net, self.alone = net, alone

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        return self.net(x) if (len(x) == 1) == self.alone else zero_gradient(self.net(x))


class Offgrid(nn.Module):
    """A network whose gradient is correct for 8-bit images, and zero for all others.

    A dataset's images are 8-bit; an attack's intermediate images are not.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        ours = ((x * 255 - (x * 255).round()).abs().flatten(1).amax(1) < 1e-3)[:, None]
        z = self.net(x)
        return torch.where(ours, z, zero_gradient(z))


def zero_gradient(z: Tensor) -> Tensor:
    """The same values with a zero gradient."""
    return z.detach() + 0 * z


def between(z: Tensor) -> Tensor:
    """The logits minus the mean of the two largest: only one is positive."""
    return z - z.topk(2).values.mean(1, keepdim=True)


def tempered(temperature: float) -> Map:
    """The log-softmax at a temperature, as of networks distilled at 1 / temperature.

    Defensive distillation: Papernot et al., "Distillation as a Defense to Adversarial Perturbations" (2016).
    """
    return lambda z: F.log_softmax(z / temperature, 1)


def one_hot(z: Tensor) -> Tensor:
    """1 for the largest logit and 0 for the others; without a gradient."""
    return F.one_hot(z.argmax(1), z.shape[1]).to(z)


def shuffled(g: Tensor) -> Tensor:
    """The gradient with its pixels in a fixed random order."""
    order = torch.randperm(g[0].numel(), generator=torch.Generator().manual_seed(0)).to(g.device)
    return g.flatten(1)[:, order].view_as(g)


def random_gradient(g: Tensor) -> Tensor:
    """Noise of the gradient's shape."""
    return torch.randn_like(g)


def nan_everywhere(g: Tensor) -> Tensor:
    """NaN."""
    return torch.full_like(g, float("nan"))


def nan_in_places(g: Tensor) -> Tensor:
    """NaN in every fiftieth pixel."""
    spoiled = g.flatten(1).clone()
    spoiled[:, ::50] = float("nan")
    return spoiled.view_as(g)


def vanishing(g: Tensor) -> Tensor:
    """The gradient times 1e-42: only a few of its largest entries remain."""
    return g * 1e-30 * 1e-12
