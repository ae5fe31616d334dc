"""Plain text for people: tables and sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from perturbify.escape import terminal

WIDEST = 500
"""Characters that a cell of a table takes at most."""


def noise_in_words(config: Mapping[str, Any] | None) -> str:
    """The settings of a surgery, as a file's header has them, in a phrase."""
    if config is None:
        return "none"
    site, scale = config.get("site", "output"), config.get("scale", "absolute")
    what = {"output": "behind convolutions", "input": "before convolutions", "norm": "behind normalisations"}
    what |= {"addition": "on additions", "weight": "on weights", "parameter": "on all parameters"}
    draw_per = "forward" if site in ("weight", "parameter") else config["draw_per"]
    first = "the first site of noise " if config.get("extent") == "first" else ""
    return f"{first}{what.get(site, site)}, {scale}, one θ per {config['grain']}, a draw per {draw_per}"


def table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Aligns rows in columns, two blanks apart; the first row is the head and is underlined.

    Args:
        rows: Cells, row by row; foreign ones are made fit for a terminal here.
        width: Columns of the terminal at most: where the rows are longer, the widest cells are wrapped between words.
    """
    rows = [[terminal(cell, WIDEST) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 12:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in rows:
        cells = [[cell] if len(cell) <= w else textwrap.wrap(cell, w) for cell, w in zip(row, widths, strict=True)]
        for part in zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(text.ljust(w) for text, w in zip(part, widths, strict=True)).rstrip())
        if row is rows[0]:
            lines.append("  ".join("─" * w for w in widths))
    return "\n".join(lines)


def counted(n: int, what: str) -> str:
    """So many things, by the noun for one: ``1 site``, ``2,000 entries``."""
    several = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{n:,} {what if n == 1 else several}"


def listed(names: Sequence[str], most: int = 100) -> str:
    """Names with commas between, of many the first ones, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" … and {more:,} more" if more > 0 else "")


def times(shape: Sequence[int]) -> str:
    """A shape as people write it: 3×32×32."""
    return "×".join(str(s) for s in shape)


def input_in_words(about: Mapping[str, Any]) -> str:
    """What a network takes, as a file's header describes it: ``3×32×32``, or what is in a list or dict of such."""
    if "list" in about:
        return f"[{', '.join(map(input_in_words, about['list']))}]"
    if "dict" in about:
        return f"{{{', '.join(f'{key}: {input_in_words(value)}' for key, value in about['dict'].items())}}}"
    if "value" in about:
        return f"{about['value']}"
    return times(about["whole"] if "whole" in about else about["shape"])


def fraction(pixels: float) -> str:
    """A size in pixels of [0, 1] as people write it: ``8/255`` where it is a few grey levels, else a decimal."""
    levels = 255 * pixels
    whole = abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole and 0 < levels <= 32 else f"{pixels:.4g}"


def percent(accuracy: float, interval: Sequence[float] | None = None) -> str:
    """An accuracy, or a difference of two, in percent, with its interval where there is one: ``83.6 [80.9, 86.0]``."""
    figure = f"{100 * accuracy:z.1f}"
    return figure if interval is None else f"{figure} [{100 * interval[0]:z.1f}, {100 * interval[1]:z.1f}]"


def duration(seconds: float) -> str:
    """A time span as people read it: ``7 s``, ``2 min 05 s``, ``3 h 20 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def first_line(error: BaseException) -> str:
    """First line of an error's text, without a final full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
