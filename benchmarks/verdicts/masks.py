"""Masked classifiers: none is robust, but each looks robust to some attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.verdicts import chance, filters, spoiling
from benchmarks.verdicts.chance import Averaged, Choice, Noisy, UnderGradient, inside
from benchmarks.verdicts.memory import Lookup, Remembering
from benchmarks.verdicts.spoiling import After, Batchwise, Before, Decoy, Misled, Offgrid, Sloped

Build = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Mask:
    """A way to mask a classifier.

    Attributes:
        name: Its name, without spaces.
        kind: Its family.
        build: Applies it to a network.
        surrogate: What an informed attacker attacks in addition to the mask and the network; by default the network.
        random: Whether its answers are random.
    """

    name: str
    kind: str
    build: Build
    surrogate: Build = lambda net: net
    random: bool = False


def _before(change: filters.Map, straight: bool = False) -> Build:
    return lambda net: Before(net, change, straight)


def _after(change: filters.Map) -> Build:
    return lambda net: After(net, change)


def _misled(change: filters.Map) -> Build:
    return lambda net: Misled(net, change)


def _inside(change: filters.Map) -> Build:
    return lambda net: inside(net, change)


def _smooth(net: nn.Module) -> nn.Module:
    """An attacker's stand-in for pixel noise: differentiable, with torch's noise."""
    return Noisy(net, 0.03, torch.randn_like)


def _noisy(name: str, source: filters.Map) -> Mask:
    """Noise from a private source, followed by rounding."""
    return Mask(
        f"noise-{name}",
        "private noise",
        lambda net: Noisy(Before(net, filters.bits(8)), 0.03, source),
        _smooth,
        random=True,
    )


def _crowd(net: nn.Module) -> list[nn.Module]:
    return [chance.jittered(net, 0.1, seed) for seed in range(5)]


def _blurred(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) * 0.5 + x * 0.5


def _filtered(kind: str, name: str, change: filters.Map) -> tuple[Mask, Mask]:
    """Without a gradient, and with a straight-through one, which is also the attacker's stand-in."""
    straight = _before(change, straight=True)
    return (
        Mask(name, kind, _before(change), straight),
        Mask(f"{name}-straight", kind, straight),
    )


_transforms = chance.any_of(
    [lambda x: x, chance.shifted, lambda x: x.flip(3), _blurred, lambda x: x**1.2, filters.bits(4)]
)
_moved = _before(chance.resize_and_pad(0.85))

MASKS: tuple[Mask, ...] = (
    *_filtered("quantised pixels", "pixels-3-bit", filters.bits(3)),
    Mask("pixels-8-bit", "quantised pixels", _before(filters.bits(8))),
    Mask("logits-rounded", "quantised logits", _after(torch.round)),
    Mask("logits-one-hot", "quantised logits", _after(spoiling.one_hot)),
    *_filtered("JPEG", "jpeg-75", filters.jpeg(75)),
    *_filtered("filter", "median", filters.median()),
    Mask(
        "total-variation",
        "filter",
        _before(filters.total_variation(0.03)),
        _before(filters.total_variation(0.03), straight=True),
    ),
    Mask("logits-x1e3", "logit scale", _after(lambda z: z * 1e3)),
    Mask("logits-x1e6", "logit scale", _after(lambda z: z * 1e6)),
    Mask("log-softmax-cold", "softmax", _after(spoiling.tempered(1e-3))),
    Mask("softmax", "softmax", _after(lambda z: z.softmax(1))),
    Mask("softmax-cold", "softmax", _after(lambda z: (z * 100).softmax(1))),
    Mask("logits-tanh", "saturation", _after(lambda z: torch.tanh(100 * spoiling.between(z)))),
    Mask("logits-clamped", "saturation", _after(lambda z: spoiling.between(z).clamp(-0.1, 0.1))),
    Mask("pixels-staircase", "saturation", _before(filters.staircase(32, 3000.0))),
    Mask("gradient-random", "random gradient", _misled(spoiling.random_gradient)),
    Mask("gradient-shuffled", "wrong gradient", _misled(spoiling.shuffled)),
    Mask("gradient-flipped", "wrong gradient", _misled(torch.neg)),
    Mask("gradient-of-another", "wrong gradient", Decoy),
    Mask("gradient-off-grid", "wrong gradient", Offgrid),
    Mask("gradient-nan", "NaN gradient", _misled(spoiling.nan_everywhere)),
    Mask("gradient-nan-places", "NaN gradient", _misled(spoiling.nan_in_places)),
    Mask("gradient-zero", "no gradient", _after(spoiling.zero_gradient)),
    Mask("gradient-none", "no gradient", _after(torch.Tensor.detach)),
    Mask("gradient-vanishing", "no gradient", _misled(spoiling.vanishing)),
    Mask(
        "noise-requires-grad",
        "noise under gradient",
        lambda net: UnderGradient(net, 0.5, lambda x: x.requires_grad),
        random=True,
    ),
    Mask(
        "noise-grad-enabled",
        "noise under gradient",
        lambda net: UnderGradient(net, 0.5, lambda _: torch.is_grad_enabled()),
        random=True,
    ),
    Mask("thermometer-16", "thermometer", _before(filters.thermometer(16)), _before(filters.thermometer(16), True)),
    Mask("pixels-rippled", "shattered gradient", _before(filters.rippled(0.01, 5000.0))),
    Mask("activations-rippled", "shattered gradient", _inside(filters.rippled(0.01, 5000.0))),
    Mask("k-winners", "shattered gradient", _inside(chance.winners(0.4))),
    Mask("slope-of-another", "decoy slope", Sloped),
    Mask("resize-and-pad", "random resize", _moved, random=True),
    Mask(
        "resize-and-pad-jpeg",
        "random resize",
        lambda net: Before(_moved(net), filters.jpeg(75)),
        lambda net: Before(_moved(net), filters.jpeg(75), straight=True),
        random=True,
    ),
    Mask("noise-vote", "noise, averaged", lambda net: Averaged(net, 0.03, 5, hard=True), _smooth, random=True),
    Mask("noise-softmax", "noise, averaged", lambda net: Averaged(net, 0.03, 5, hard=False), _smooth, random=True),
    Mask("pruning", "random activations", _inside(chance.pruned(2.0)), random=True),
    Mask("dropout", "random activations", _inside(chance.dropped(0.05)), random=True),
    Mask(
        "dropout-one-hot",
        "random activations",
        lambda net: After(inside(net, chance.dropped(0.05)), spoiling.one_hot),
        _inside(chance.dropped(0.05)),
        random=True,
    ),
    _noisy("generator", chance.from_generator()),
    _noisy("system", chance.from_system),
    Mask("noise-hash", "hashed noise", lambda net: Noisy(net, 0.03, chance.from_pixels)),
    Mask(
        "noise-hash-8-bit",
        "hashed noise",
        lambda net: Noisy(Before(net, filters.bits(8)), 0.03, chance.from_pixels),
        _smooth,
    ),
    Mask("pixel-deflection", "random pixels", _before(chance.deflect(100, 5)), random=True),
    Mask(
        "pixel-deflection-8-bit",
        "random pixels",
        lambda net: Before(Before(net, filters.bits(8)), chance.deflect(100, 5)),
        _before(chance.deflect(100, 5)),
        random=True,
    ),
    Mask("random-transform", "random choice", _before(_transforms), random=True),
    Mask(
        "random-network",
        "random choice",
        lambda net: Choice([After(n, spoiling.one_hot) for n in _crowd(net)]),
        random=True,
    ),
    Mask("remembers-answer", "memory", Remembering),
    Mask("remembers-class", "memory", lambda net: Remembering(net, patience=4, invent=True)),
    Mask("lookup", "memory", Lookup),
    Mask("gradient-alone", "batch size", lambda net: Batchwise(net, alone=True)),
    Mask("gradient-in-company", "batch size", lambda net: Batchwise(net, alone=False)),
)
