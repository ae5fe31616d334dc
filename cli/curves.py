"""The picture of a comparison: accuracy against ε, a line for each group of runs (the paper's figures 2 and 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbify import escape
from perturbify.text import percent

if TYPE_CHECKING:
    from perturbify.checks.comparison import Comparison

# Okabe and Ito's, without the yellow, which white paper swallows; the markers tell them apart without any colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255")
MARKERS = ("o", "s", "D", "^", "v", "p", "<", "h")
LONGEST = 32
"""Characters of a name that the legend shows."""


def draw(figure: Any, comparison: Comparison) -> None:
    """Fills an empty matplotlib figure.

    Args:
        figure: The figure.
        comparison: What it shows.
    """
    plan, groups = comparison.plan, comparison.groups
    panels = figure.subplots(1, len(comparison.lines), sharey=True, squeeze=False)[0]
    shade = 0.2 if len(groups) < 4 else 0.09
    for axes, line in zip(panels, comparison.lines, strict=True):
        for number, group in enumerate(groups):
            curve, style = group.curve(line), _style(number)
            x = [255 * epsilon for epsilon, _ in curve]
            low, high = ([100 * pooled.over_images[side] for _, pooled in curve] for side in (0, 1))
            axes.fill_between(x, low, high, color=style["color"], alpha=shade, lw=0)
            axes.plot(x, [100 * pooled.over_runs.mean for _, pooled in curve], **style)
        axes.axvline(255 * plan.epsilon, color="#00000070", lw=1, ls=(0, (4, 3)), zorder=0)
        axes.set_title(f"Accuracy under {line}, %", loc="left", fontsize=11)
        axes.set_xlabel("ε in 1/255")
        axes.set_xticks(x, [f"{tick:.3g}" for tick in x])
        axes.set_xlim(left=0)
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#00000018")
    order = sorted(range(len(groups)), key=lambda number: -groups[number].worst.over_runs.mean)
    lines = panels[-1].get_lines()
    figure.legend(
        [lines[number] for number in order],
        [f"{percent(groups[n].worst.over_runs.mean)}  {_literal(groups[n].name)}" for n in order],
        loc="outside right center",
        title="left in the worst case\n(of the table), %",
        alignment="left",
        frameon=False,
        fontsize=10,
        title_fontsize=9,
    )
    averaged = comparison.lines[-1] != "FGSM" and _draw_averaged(panels[-1], comparison)
    first, pooled = comparison.entries[0].report, ", runs pooled" if comparison.several else ""
    figure.suptitle(
        f"{first.n} test images of {_literal(first.dataset)}; bands: 95% intervals over images{pooled}; dashed: "
        "the table's ε" + (f"; hollow: EOT-PGD-{plan.steps} there, side by side" if averaged else ""),
        x=0.005,
        ha="left",
        fontsize=10,
    )


def _draw_averaged(axes: Any, comparison: Comparison) -> bool:
    """Marks EOT-PGD, which averages what PGD's single draws hide; says whether any network has noise for it."""
    figures = [(number, group.figure("eot")) for number, group in enumerate(comparison.groups)]
    found = [(number, pooled) for number, pooled in figures if pooled is not None]
    width = axes.get_xlim()[1] / 60
    for place, (number, pooled) in enumerate(found):
        style = _style(number)
        x = 255 * comparison.plan.epsilon + width * (place - (len(found) - 1) / 2)
        hollow = {"mfc": "white", "mec": style["color"], "mew": 1.5, "zorder": 4}
        axes.plot([x], [100 * pooled.over_runs.mean], **style | hollow)
    return bool(found)


def _style(number: int) -> dict[str, Any]:
    """A group's line: colour and marker, and from the ninth on another dash."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "ls": ("-", "--", ":")[number // len(COLOURS) % 3],
        "lw": 1.8,
        "ms": 6.5,
        "mec": "white",
        "mew": 0.5,
        "clip_on": False,
        "zorder": 3,
    }


def _literal(text: str) -> str:
    """Foreign text without mathematics, cut where it would leave no room for the panels."""
    shown = escape.terminal(text)
    return escape.figure(shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…")
