"""The style of the pictures: distinct colours, marks and dashes, plain numbers, and names next to the data."""

from __future__ import annotations

import math
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from perturbify import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

# Okabe and Ito's colours without yellow, which is invisible on white; marks and dashes differ, too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255")
MARKERS = ("o", "s", "D", "^", "v", "p", "<", "h", "X", "P", ">")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))

SMALL, NORMAL, LARGE = 9, 10, 11
"""Font sizes in points: of names, axes, titles."""

_WIDE = 100
"""From this ratio of the greatest to the smallest number, a scale is logarithmic."""


def style(number: int) -> dict[str, Any]:
    """The style of a curve: 8 colours, 11 marks and 3 dashes, so the first 264 curves all differ."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "ls": DASHES[number // len(COLOURS) % len(DASHES)],
        "mec": "white",
        "mew": 0.5,
    }


def tidy(axes: Any, title: str, across: str) -> None:
    """Sets titles, fonts, lines and plain numbers on both axes."""
    axes.set_title(title, loc="left", fontsize=LARGE)
    axes.set_xlabel(across, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#00000018")


def plain(axes: Any, values: Sequence[float]) -> None:
    """Makes the vertical axis show plain numbers: 0.002, without an offset or a power of ten.

    The scale is logarithmic where positive numbers span a factor of 100. Small differences are not magnified.

    Args:
        axes: The axes, with the curves drawn.
        values: The numbers in the curves.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    finite = [float(v) for v in values if math.isfinite(v)]
    if not finite:
        return
    low, high = min(finite), max(finite)
    if low > 0 and high / low >= _WIDE:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(_round(low, high)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0.8 * low, 1.25 * high)
    else:
        size = max(abs(low), abs(high)) or 1.0
        room = max(0.05 * (high - low), 0.02 * size)
        axes.set_ylim(0 if 0 <= low < 0.5 * high else low - room, high + room)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))


def written(value: float) -> str:
    """A number with up to six significant digits, and no exponent."""
    import numpy as np  # which the command line starts without

    return np.format_float_positional(value, precision=6, fractional=False, trim="-")


def _round(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within bounds; the powers only, if there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, (last - first) // 6)
    ticks = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
    return [tick for tick in ticks if 0.8 * low <= tick <= 1.25 * high]


def names(texts: Sequence[str], most: int) -> list[str]:
    """Foreign names without math markup, shortened, and still distinct.

    Args:
        texts: The names.
        most: The most characters of each.

    Returns:
        A name for each: its beginning and end; if that is not unique, the part that differs; else with a number in
        front.
    """
    shown = [escape.terminal(text) for text in texts]
    before, behind = commonprefix(shown), commonprefix([t[::-1] for t in shown])  # noqa: RUF071 -- of characters
    own = [f"…{text[len(before) : len(text) - len(behind)] or text}…" for text in shown]
    numbered = [f"{number}: {text}" for number, text in enumerate(shown, 1)]
    cut = [[_cut(text, most) for text in way] for way in (shown, own, numbered)]
    told_apart = next((way for way in cut if len({*way}) == len({*shown})), cut[-1])
    return [escape.figure(text) for text in told_apart]


def _cut(text: str, most: int) -> str:
    """A text without its middle, if it is too long."""
    if len(text) <= most:
        return text
    tail = (most - 1) * 2 // 3
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def canvas(width: float, height: float) -> Any:
    """An empty matplotlib figure.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
