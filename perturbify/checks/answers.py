"""Do answers depend on what they must not depend on: who watches, who else is asked, what was asked before?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.checks.evidence import Criterion, Evidence, never
from perturbify.checks.probe import Asked, ask
from perturbify.perturbation import noise

DRAWS = 20
"""Answers that each circumstance gets where the network is random."""

AGAIN = 4
"""Pairs of such sets of answers that must all differ."""

SAME, TURNED = 0.01, 0.1
"""Parts of an answer, and of a gradient's length, by which they may differ and count as the same."""

NEAR, COPIES = 25, 4
"""Rounds of near-equal queries, and copies of an image in each."""


def answers(
    model: nn.Module, x: Tensor, y: Tensor, seeds: Callable[[str, int], Sequence[int]], *, deterministic: bool
) -> tuple[Criterion, ...]:
    """Asks a network the same under different circumstances.

    Args:
        model: A classifier, with its noise as it is.
        x: A few images, shape (N, C, H, W), in [0, 1].
        y: True labels, shape (N,).
        seeds: Gives so many seeds that belong to a name.
        deterministic: Whether it gives the same answer every time once the noise that is ours is off.

    Returns:
        Criteria: the answers do not depend on who watches and on the other images; nor do the gradients; nor do they
        on earlier queries; nor on the last bit of an image.
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
            never("images whose answer is another when asked again", differ(again)),
            never("images whose answer is another where a gradient is asked for", differ(watched)),
        ),
        _company(
            never("images whose answer is another in a batch of one", differ(alone)),
            never("images whose answer is another in a batch of another order", _flipped(differ, backwards)),
            never("images whose gradient is another when asked again", turned(watched, anew)),
            never("images whose gradient is another in a batch of one", turned(watched, alone)),
        ),
        _memory(never("images whose answer is another after near-equal queries", differ(later))),
        _bits(never("images whose answer jumps with the last bit of their pixels", differ(bit))),
    ]


def _statistically(
    model: nn.Module, x: Tensor, y: Tensor, seeds: Callable[[str, int], Sequence[int]]
) -> list[Criterion]:
    """For networks whose draws are not ours: by the distributions of their answers."""
    before = [ask(model, x, y, seeds(f"before {i}", DRAWS)) for i in range(AGAIN)]

    def always(name: str, **how: Any) -> list[bool]:
        """Whether each of several pairs is distinct: chance calls one so now and then, and hardly ever all."""
        return [all(distinct(b, ask(model, x, y, seeds(f"{name} {i}", DRAWS), **how)) for i, b in enumerate(before))]

    watched, alone = always("watched", gradient=True), always("alone", size=1)
    near(model, x, y, seeds("near", NEAR))
    return [
        _watching(never("answers distributed otherwise where a gradient is asked for", watched)),
        _company(never("answers distributed otherwise in batches of one", alone)),
        _memory(never("answers distributed otherwise after near-equal queries", always("later"))),
    ]


def near(model: nn.Module, x: Tensor, y: Tensor, seeds: Sequence[int]) -> None:
    """Asks for images that are all but the same, again and again, as an attack does.

    Args:
        model: A classifier.
        x: Images, shape (N, C, H, W); the first four are asked for.
        y: True labels, shape (N,).
        seeds: One for each round.
    """
    few, labels = x[:4].repeat(COPIES, 1, 1, 1), y[:4].repeat(COPIES)
    for seed in seeds:
        change = torch.rand(few.shape, generator=torch.Generator().manual_seed(seed)).to(few)
        ask(model, (few + (change - 0.5) / 255).clamp(0, 1), labels, [seed])


def distinct(first: Asked, second: Asked) -> bool:
    """Whether two sets of draws are certainly not of one distribution, by their means and spreads.

    The images of a forward may share its draw, so a mean difference counts as one observation. Chance alone calls one
    pair in some hundreds distinct; where one draw in ten is unlike the others, one in five.

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
    """Which images got other answers, shape (N,), bool; kernels that round otherwise do not count (TF32's, for one)."""
    a, b = first.margins[0], second.margins[0]
    scale = a.abs().nan_to_num(posinf=0).median().item()
    return ~torch.isclose(b, a, rtol=SAME, atol=SAME * scale, equal_nan=True).cpu()


def turned(first: Asked, second: Asked) -> Tensor:
    """Which images' gradients are not the same, shape (N,), bool."""
    assert first.gradient is not None and second.gradient is not None
    a, b = first.gradient.flatten(1).nan_to_num(), second.gradient.flatten(1).nan_to_num()
    length = torch.maximum(a.norm(dim=1), b.norm(dim=1))
    return ((a - b).norm(dim=1) > TURNED * length).cpu()


def _flipped(differ: Callable[[Asked], Tensor], backwards: Asked) -> Tensor:
    return differ(Asked(backwards.margins.flip(1)))


def _watching(*evidence: Evidence) -> Criterion:
    why = "Whoever measures gets other answers than whoever attacks."
    return Criterion("an answer does not depend on who watches", why, evidence)


def _company(*evidence: Evidence) -> Criterion:
    why = "Attacks work on batches; answers or gradients that hang on the batch mislead them."
    return Criterion("an image does not depend on its batch", why, evidence)


def _memory(*evidence: Evidence) -> Criterion:
    why = "The network keeps what it was asked, and answers attacks otherwise than users."
    return Criterion("an answer does not depend on earlier ones", why, evidence)


def _bits(*evidence: Evidence) -> Criterion:
    why = "The network draws noise from the image itself, or breaks it up: its gradient is that of one point alone."
    return Criterion("an answer does not jump", why, evidence)
