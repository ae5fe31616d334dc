"""Do answers depend on what they must not: whether gradients are computed, the batch, earlier queries?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.attacks import Pgd, frozen_eval, pgd
from perturbify.checks.evidence import Criterion, Evidence, fraction, never
from perturbify.checks.probe import Asked, ask
from perturbify.errors import ModelError
from perturbify.perturbation import noise

DRAWS = 20
"""Answers that each circumstance gets where the network is random."""

AGAIN = 4
"""Pairs of such sets of answers; all of them must differ."""

SAME, TURNED = 0.01, 0.1
"""Relative differences of answers and of gradients that still count as the same."""

STEPS, HALVINGS, JUMPS_AT_MOST = 10, 12, 0.03
"""Steps that lead to another class, halvings of the way there, and the share of images that may jump on it."""

NEAR, COPIES = 25, 4
"""Rounds of near-equal queries, and copies of an image in each."""


def answers(
    model: nn.Module, x: Tensor, y: Tensor, seeds: Callable[[str, int], Sequence[int]], *, deterministic: bool
) -> tuple[Criterion, ...]:
    """Asks a network the same question under different circumstances.

    Args:
        model: A classifier; its noise stays as it is set.
        x: A few images, shape (N, C, H, W), in [0, 1].
        y: True labels, shape (N,).
        seeds: Returns a number of seeds for a name.
        deterministic: Whether it returns the same answer every time while perturbify's noise is off.

    Returns:
        Criteria: the answers do not depend on whether gradients are computed, on the batch (nor do the gradients), on
            earlier queries, or on the last bit of a pixel.
    """
    if deterministic:
        with noise(model, enabled=False):
            found = _exactly(model, x, y, seeds)
    else:
        found = _statistically(model, x, y, seeds)
    return tuple(found)


def _exactly(model: nn.Module, x: Tensor, y: Tensor, seeds: Callable[[str, int], Sequence[int]]) -> list[Criterion]:
    one, other = seeds("one", 1), seeds("other", 1)
    base, again = ask(model, x, y, one), ask(model, x, y, other)
    watched, anew = ask(model, x, y, one, gradient=True), ask(model, x, y, other, gradient=True)
    alone = ask(model, x, y, one, gradient=True, size=1)
    backwards = ask(model, x.flip(0), y.flip(0), one)
    bit = ask(model, torch.nextafter(x, torch.full_like(x, 0.5)), y, one)
    near(model, x, y, seeds("near", NEAR))
    later = ask(model, x, y, one)

    def differ(found: Asked) -> Tensor:
        return differing(base, found)

    return [
        _watching(
            never("images whose answer changes when asked again", differ(again)),
            never("images whose answer changes when a gradient is requested", differ(watched)),
        ),
        _company(
            never("images whose answer changes in a batch of one", differ(alone)),
            never("images whose answer changes when the batch is reordered", _flipped(differ, backwards)),
            never("images whose gradient changes when asked again", turned(watched, anew)),
            never("images whose gradient changes in a batch of one", turned(watched, alone)),
        ),
        _memory(never("images whose answer changes after near-equal queries", differ(later))),
        _bits(never("images whose answer changes with the last bit of their pixels", differ(bit))),
    ]


def _statistically(
    model: nn.Module, x: Tensor, y: Tensor, seeds: Callable[[str, int], Sequence[int]]
) -> list[Criterion]:
    """For networks that draw their own noise: compares the distributions of their answers."""
    before = [ask(model, x, y, seeds(f"before {i}", DRAWS)) for i in range(AGAIN)]

    def always(name: str, **how: Any) -> list[bool]:
        """Whether every pair is distinct: by chance one of them often is, but hardly ever all."""
        return [all(distinct(b, ask(model, x, y, seeds(f"{name} {i}", DRAWS), **how)) for i, b in enumerate(before))]

    watched, alone = always("watched", gradient=True), always("alone", size=1)
    near(model, x, y, seeds("near", NEAR))
    return [
        _watching(never("images whose answers are distributed differently when a gradient is requested", watched)),
        _company(never("images whose answers are distributed differently in batches of one", alone)),
        _memory(never("images whose answers are distributed differently after near-equal queries", always("later"))),
    ]


def borders(model: nn.Module, x: Tensor, *, epsilon: float, seed: int, size: int | None = None) -> Criterion:
    """Follows the line from each image to one of another class, and compares the margins on both sides of the boundary.

    An honest margin is near zero on both sides. One that jumps hides the decision from the gradient, which may be
    correct everywhere and still lead nowhere. The line ends where steps of ε along the gradient lead, as in an attack;
    if they do not change the class, at the nearest image of another class.

    Args:
        model: A classifier, its noise off.
        x: Images, shape (N, C, H, W), in [0, 1].
        epsilon: Radius of the attacks' l∞ ball.
        seed: Seed of its random numbers.
        size: Images in a forward; None takes all at once.
    """
    parts = x.split(size or len(x))
    classes = torch.cat([_classes(model, part) for part in parts])
    name, why = (
        "the margin does not jump at the decision boundary",
        "The class is decided where no gradient leads an attack.",
    )
    others = classes != classes[:, None]
    if not others.any(1).all():
        return Criterion(name, why, (), detail="the network predicts one class for all images")
    far = torch.cdist(x.flatten(1), x.flatten(1))
    ends = x[torch.where(others, far, torch.inf).argmin(1)]
    with suppress(ModelError):  # without a gradient, the other images are used
        steps = Pgd(1.0, epsilon, STEPS, random_start=False)
        led = torch.cat([pgd(model, a, b, steps) for a, b in zip(parts, classes.split(size or len(x)), strict=True)])
        changed = torch.cat([_classes(model, part) for part in led.split(size or len(x))]) != classes
        ends = torch.where(changed.view(-1, 1, 1, 1), led, ends)
    start = ask(model, x, classes, [seed], size=size).margins[0]
    low, high = torch.zeros_like(start), torch.ones_like(start)

    def margins(part: Tensor) -> Tensor:
        return ask(model, x + part.view(-1, 1, 1, 1) * (ends - x), classes, [seed], size=size).margins[0]

    for _ in range(HALVINGS):
        middle = (low + high) / 2
        before = margins(middle) > 0
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    # Relative to the image's own margin, as some images may be on another scale; but not to one that is nearly zero.
    jump = (margins(low) - margins(high)) / start.clamp(min=0.05 * start.median().item())
    what = "images whose margin jumps by more than a quarter on the way to another class"
    return Criterion(name, why, (fraction(what, (jump > 0.25).cpu(), most=JUMPS_AT_MOST),))


@torch.no_grad()
def _classes(model: nn.Module, x: Tensor) -> Tensor:
    with frozen_eval(model):
        return model(x).argmax(1)


def near(model: nn.Module, x: Tensor, y: Tensor, seeds: Sequence[int]) -> None:
    """Queries nearly identical images again and again, as an attack does.

    Args:
        model: A classifier.
        x: Images, shape (N, C, H, W); the first four are queried.
        y: True labels, shape (N,).
        seeds: One for each round.
    """
    few, labels = x[:4].repeat(COPIES, 1, 1, 1), y[:4].repeat(COPIES)
    for seed in seeds:
        change = torch.rand(few.shape, generator=torch.Generator().manual_seed(seed)).to(few)
        ask(model, (few + (change - 0.5) / 255).clamp(0, 1), labels, [seed])


def distinct(first: Asked, second: Asked) -> bool:
    """Whether two sets of draws clearly come from different distributions, by their means and spreads.

    The images of a forward may share its draw, so a mean difference counts as one observation. By chance alone, one
    pair in several hundred is called distinct; if one draw in ten is an outlier, one in five.

    Args:
        first: Draws of a batch.
        second: Other draws of the same batch, as many.
    """
    a, b = first.margins.double(), second.margins.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        return bool((a.isfinite().double().mean() - b.isfinite().double().mean()).abs() > 0.25)
    spread = (a.var(0) + b.var(0)) / len(a)
    apart = (a.mean(0) - b.mean(0)).square()
    floor = 1e-6 * a.mean(0).square().mean()
    squares = apart / (spread + floor)
    ratio = ((a.var(0) + floor) / (b.var(0) + floor)).log().mean()
    return bool(squares.mean() > 12 or ratio.abs() > 1.5)


def differing(first: Asked, second: Asked) -> Tensor:
    """Which images got different answers, shape (N,), bool; a kernel's different rounding (TF32) does not count."""
    a, b = first.margins[0], second.margins[0]
    scale = a.abs().nan_to_num(posinf=0).median().item()
    return ~torch.isclose(b, a, rtol=SAME, atol=SAME * scale, equal_nan=True).cpu()


def turned(first: Asked, second: Asked) -> Tensor:
    """Which images got different gradients, shape (N,), bool."""
    assert first.gradient is not None and second.gradient is not None
    a, b = first.gradient.flatten(1).nan_to_num(), second.gradient.flatten(1).nan_to_num()
    length = torch.maximum(a.norm(dim=1), b.norm(dim=1))
    return ((a - b).norm(dim=1) > TURNED * length).cpu()


def _flipped(differ: Callable[[Asked], Tensor], backwards: Asked) -> Tensor:
    return differ(Asked(backwards.margins.flip(1)))


def _watching(*evidence: Evidence) -> Criterion:
    why = "The network answers an attack differently from a user."
    return Criterion("answers do not depend on whether gradients are computed", why, evidence)


def _company(*evidence: Evidence) -> Criterion:
    why = "Attacks work on batches; answers or gradients that depend on the batch mislead them."
    return Criterion("answers do not depend on the batch", why, evidence)


def _memory(*evidence: Evidence) -> Criterion:
    why = "The network remembers queries, and answers attacks differently from users."
    return Criterion("answers do not depend on earlier queries", why, evidence)


def _bits(*evidence: Evidence) -> Criterion:
    why = "The network seeds noise with the image itself, or quantises it: its gradient holds at one point only."
    return Criterion("answers do not change with a pixel's last bit", why, evidence)
