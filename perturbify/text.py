"""Plain text for people: tables and sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from perturbify.escape import terminal

WIDEST = 500
"""Maximum number of characters in a table cell."""


def noise_in_words(config: Mapping[str, Any] | None) -> str:
    """Describes a file header's surgery settings in a phrase."""
    if config is None:
        return "none"
    site, scale = config.get("site", "output"), config.get("scale", "absolute")
    what = {"output": "behind convolutions", "input": "before convolutions", "norm": "behind normalisations"}
    what |= {"addition": "on additions", "weight": "on weights", "parameter": "on all parameters"}
    draw_per = "forward" if site in ("weight", "parameter") else config["draw_per"]
    first = "the first site of noise " if config.get("extent") == "first" else ""
    return f"{first}{what.get(site, site)}, {scale}, one θ per {config['grain']}, a draw per {draw_per}"


def table(rows: Sequence[Sequence[str]], width: int | None = None, least: Sequence[str] = ()) -> str:
    """Aligns rows in columns, two spaces apart; the first row is the header and is underlined.

    Args:
        rows: Cells, row by row; they are made safe for a terminal here.
        width: Maximum number of terminal columns; if rows are longer, the widest cells are wrapped between words.
        least: Headers of columns that are dropped if that is not enough, the least important first; a line below the
            table names them.
    """
    columns = list(zip(*([terminal(cell, WIDEST) for cell in row] for row in rows), strict=True))
    out: list[str] = []
    for head in least:
        if width is None or sum(map(_narrowest, columns)) + 2 * (len(columns) - 1) <= width:
            break
        out += [column[0] for column in columns if column[0] == head]
        columns = [column for column in columns if column[0] != head]
    widths = [max(map(len, column)) for column in columns]
    floors = [_narrowest(column) for column in columns]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        shrinking = [i for i, floor in enumerate(floors) if widths[i] > floor]
        if not shrinking:
            break
        widths[max(shrinking, key=widths.__getitem__)] -= 1
    lines = []
    for number, row in enumerate(zip(*columns, strict=True)):
        cells = [[cell] if len(cell) <= w else fill(cell, w).split("\n") for cell, w in zip(row, widths, strict=True)]
        for part in zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(text.ljust(w) for text, w in zip(part, widths, strict=True)).rstrip())
        if number == 0:
            lines.append("  ".join("─" * w for w in widths))
    return "\n".join([*lines, *([fill(f"left out: {', '.join(out)} (--wide shows all)", width or 80)] if out else [])])


def _narrowest(column: Sequence[str]) -> int:
    """How narrow a column can be with its words whole."""
    return max(min(len(cell), max(12, *map(len, ["", *cell.split()]))) for cell in column)


def fill(text: str, width: int, indent: str = "") -> str:
    """Wraps one line between words; a word that is longer than a line stays whole.

    Args:
        text: Fit to be shown.
        width: Columns at most.
        indent: What the second line and those after it begin with.
    """
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def counted(n: int, what: str) -> str:
    """A count with its noun, given in the singular: ``1 site``, ``2,000 entries``."""
    several = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{n:,} {what if n == 1 else several}"


def listed(names: Sequence[str], most: int = 100) -> str:
    """Names separated by commas; if there are many, the first ones and how many more."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" … and {more:,} more" if more > 0 else "")


def times(shape: Sequence[int]) -> str:
    """A shape such as 3×32×32."""
    return "×".join(str(s) for s in shape)


def input_in_words(about: Mapping[str, Any]) -> str:
    """An input as a file's header describes it: ``3×32×32``, or a list or dict of these."""
    if "list" in about:
        return f"[{', '.join(map(input_in_words, about['list']))}]"
    if "dict" in about:
        return f"{{{', '.join(f'{key}: {input_in_words(value)}' for key, value in about['dict'].items())}}}"
    if "value" in about:
        return f"{about['value']}"
    return times(about["whole"] if "whole" in about else about["shape"])


def fraction(pixels: float) -> str:
    """A size in pixels of [0, 1]: ``8/255`` if it is a few grey levels, else a decimal."""
    levels = 255 * pixels
    whole = abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole and 0 < levels <= 32 else f"{pixels:.4g}"


def percent(accuracy: float, interval: Sequence[float] | None = None) -> str:
    """An accuracy, or a difference of two, in percent, with its interval if there is one: ``83.6 [80.9, 86.0]``."""
    figure = f"{100 * accuracy:z.1f}"
    return figure if interval is None else f"{figure} [{100 * interval[0]:z.1f}, {100 * interval[1]:z.1f}]"


def duration(seconds: float) -> str:
    """A duration for people: ``7 s``, ``2 min 05 s``, ``3 h 20 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def first_line(error: BaseException) -> str:
    """First line of an error's text, without a final full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
