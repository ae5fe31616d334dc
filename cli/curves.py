"""The picture of a comparison: accuracy against ε, a line for each group of runs (the paper's figures 2 and 3)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from perturbify.cli import figures
from perturbify.text import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbify.checks.comparison import Comparison
    from perturbify.checks.runs import Pooled

LONGEST = 30
"""The most characters of a name in the legend."""

ROOM = 0.7
"""Share of the distance between two radii that the marks of all networks take."""


def size(comparison: Comparison) -> tuple[float, float]:
    """Size of the picture in inches: panels side by side for a few networks, below each other for many."""
    panels, many = len(comparison.lines), _many(comparison)
    return (12, 4.2 * panels + 0.8) if many else (5.2 * panels + 2.8, 5)


def draw(figure: Any, comparison: Comparison) -> None:
    """Fills an empty matplotlib figure.

    Args:
        figure: The figure.
        comparison: The comparison to show.
    """
    from matplotlib.lines import Line2D

    groups, lines = comparison.groups, comparison.lines
    many = _many(comparison)
    shape = (len(lines), 1) if many else (1, len(lines))
    panels = figure.subplots(*shape, sharey=True, squeeze=False).flat
    for axes, line in zip(panels, lines, strict=True):
        averaged = _draw_line(axes, comparison, line)
    order = sorted(range(len(groups)), key=lambda number: -groups[number].worst.over_runs.mean)
    names = figures.names([group.name for group in groups], LONGEST)
    figure.legend(
        [Line2D([], [], **figures.style(number), ms=6.5, lw=1.6) for number in order],
        [f"{percent(groups[n].worst.over_runs.mean)}  {names[n]}" for n in order],
        loc="outside right center",
        title="accuracy in the worst case\n(of the table), %",
        alignment="left",
        frameon=False,
        handlelength=3,
        fontsize=figures.NORMAL,
        title_fontsize=figures.SMALL,
    )
    figure.suptitle("\n".join(_notes(comparison, averaged)), x=0.008, ha="left", fontsize=figures.SMALL)


def _many(comparison: Comparison) -> bool:
    return len(comparison.groups) > 4


def _draw_line(axes: Any, comparison: Comparison, line: str) -> bool:
    """Draws the curves of one attack, their marks side by side; returns whether EOT-PGD is among them."""
    groups, averaged = comparison.groups, False
    radii = sorted({epsilon for group in groups for epsilon, _ in group.curve(line)})
    places, wide = _places(radii)
    for number, group in enumerate(groups):
        look = figures.style(number) | {"clip_on": False, "zorder": 3, "ms": 5.5 if _many(comparison) else 6.5}
        aside = ROOM * wide * ((number + 0.5) / len(groups) - 0.5)
        curve = [(places[epsilon] + aside, pooled) for epsilon, pooled in group.curve(line)]
        _draw_marks(axes, curve, look)
        eot = group.figure("eot") if line != "FGSM" else None
        if eot is not None:
            averaged = True
            hollow = {"mfc": "white", "mec": look["color"], "mew": 1.4, "zorder": 4, "ls": ""}
            beside = places[comparison.plan.epsilon] + aside + 0.4 * ROOM * wide / len(groups)
            _draw_marks(axes, [(beside, eot)], look | hollow)
    axes.axvspan(*_around(places[comparison.plan.epsilon], wide), color="#0000000d", lw=0, zorder=0)
    figures.tidy(axes, f"Accuracy under {line}, %", "ε in 1/255" + ("" if _to_scale(radii) else ", not to scale"))
    axes.set_xticks(list(places.values()), [f"{255 * radius:.3g}" for radius in radii])
    axes.set_xlim(_around(min(places.values()), wide)[0], _around(max(places.values()), wide)[1])
    axes.set_ylim(0, 100)
    return averaged


def _draw_marks(axes: Any, points: list[tuple[float, Pooled]], look: dict[str, Any]) -> None:
    """Points on a thin line, each with its interval over images."""
    x, y = [x for x, _ in points], [100 * pooled.over_runs.mean for _, pooled in points]
    low, high = ([100 * pooled.over_images[side] for _, pooled in points] for side in (0, 1))
    axes.vlines(x, low, high, color=look["color"], lw=1, alpha=0.7, zorder=2)
    axes.plot(x, y, lw=1, **look)


def _places(radii: Sequence[float]) -> tuple[dict[float, float], float]:
    """Positions of the radii, and their least distance: to scale, or equally spaced if two are too close."""
    places = [255 * radius for radius in radii] if _to_scale(radii) else list(range(len(radii)))
    return dict(zip(radii, places, strict=True)), min((b - a for a, b in pairwise(places)), default=1)


def _to_scale(radii: Sequence[float]) -> bool:
    """Whether the two closest radii leave room for marks between them."""
    gaps = [b - a for a, b in pairwise(radii)]
    return not gaps or min(gaps) >= 0.08 * (radii[-1] - radii[0])


def _around(place: float, wide: float) -> tuple[float, float]:
    return place - 0.5 * wide, place + 0.5 * wide


def _notes(comparison: Comparison, averaged: bool) -> list[str]:
    """What the picture shows, and how to read it."""
    first, pooled = comparison.entries[0].report, ", runs pooled" if comparison.several else ""
    said = [
        f"{first.n} test images of {figures.names([first.dataset], 40)[0]}; bars: 95% intervals over images{pooled}; "
        "shaded: the table's ε; networks side by side at each ε"
    ]
    if averaged:
        said.append(f"hollow, next to PGD: EOT-PGD-{comparison.plan.steps}, which averages draws in each step")
    shared = [group.name for group in comparison.groups if group.shared]
    if shared:
        said.append(
            f"{', '.join(figures.names(shared, 24)[:4])}{', …' if len(shared) > 4 else ''}: all images share each draw "
            "of the noise, and each point has its own draws: it moves up or down as a whole"
        )
    return said
