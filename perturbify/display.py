"""Objects as Python and notebooks show them: a title and a few facts, on short lines or in a small table."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice

from perturbify.escape import html, terminal
from perturbify.text import percent

WIDTH = 80
"""The most columns of a line."""

MOST_ROWS = 12
"""The most rows of a table in a notebook; of more, the first are shown, with the total."""

Fact = tuple[str, str]
"""A name and its text; a fact with an empty text is left out."""


def lines(title: str, facts: Iterable[Fact] = (), end: str = "") -> str:
    """A title and facts as plain text.

    Args:
        title: What it is.
        facts: The facts, a line each.
        end: A last line, such as where to read more.

    Returns:
        Lines of at most 80 columns; foreign text is made safe.
    """
    said = [(name, text) for name, text in facts if text]
    room = max((len(name) for name, _ in said), default=0)
    shown = [title, *(f"  {name:{room}}  {text}" for name, text in said), *([f"  {end}"] if end else [])]
    return "\n".join(map(fitted, shown))


def page(
    title: str,
    facts: Iterable[Fact] = (),
    head: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    end: str = "",
    *,
    of: int | None = None,
) -> str:
    """A title, facts and a table as self-contained HTML.

    Args:
        title: What it is.
        facts: The facts.
        head: The columns of the table; empty for no table.
        rows: Its cells, of which :data:`MOST_ROWS` rows are shown.
        end: A last line.
        of: The total number of rows, if ``rows`` are only the first of them.

    Returns:
        An element; foreign text is escaped.
    """
    about = "".join(f"<br>{_escaped(name)}: {_escaped(text)}" for name, text in facts if text)
    made = f"<p><strong>{_escaped(title)}</strong>{about}</p>"
    if head:
        body = "".join(_row("td", row) for row in rows[:MOST_ROWS])
        made += f"<table><thead>{_row('th', head)}</thead><tbody>{body}</tbody></table>"
    more = (len(rows) if of is None else of) - MOST_ROWS
    last = " ".join(filter(None, (f"… and {more:,} more." if more > 0 else "", end)))
    return f"<div>{made}{f'<p>{_escaped(last)}</p>' if last else ''}</div>"


def _row(kind: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{_escaped(cell)}</{kind}>' for cell in cells)}</tr>"


def _escaped(text: str) -> str:
    return html(text, 200)


def fitted(text: str, width: int = WIDTH) -> str:
    """One line of text, cut to a number of terminal columns; wide letters take two."""
    shown = terminal(text)
    if _columns(shown) <= width:
        return shown
    while _columns(shown) > width - 1:
        shown = shown[:-1]
    return f"{shown}…"


def _columns(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def some(values: Iterable[object], of: int, most: int = 8) -> str:
    """The first of several values, separated by commas, and their number: ``3, 5, 0, … (64)``."""
    said = ", ".join(str(value) for value in islice(values, most))
    return f"{said}, … ({of:,})" if of > most else said


def spread(values: Sequence[float]) -> str:
    """The range and mean of numbers: ``0.31 to 0.99, mean 0.84``; those not finite are counted."""
    finite = [v for v in values if math.isfinite(v)]
    wrong = f"{len(values) - len(finite):,} not finite" if len(finite) < len(values) else ""
    if not finite:
        return wrong
    low, high, mean = min(finite), max(finite), math.fsum(finite) / len(finite)
    said = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}, mean {mean:.4g}"
    return f"{said}; {wrong}" if wrong else said


def accuracy(value: float, interval: Sequence[float]) -> str:
    """An accuracy with its interval: ``83.6 [80.9, 86.0] %``."""
    return f"{percent(value, interval)} %"
