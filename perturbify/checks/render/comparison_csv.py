"""A comparison as CSV (RFC 4180), for plots and further analysis."""

from __future__ import annotations

import csv
import io
from typing import Any

from perturbify.checks.comparison import Comparison
from perturbify.checks.frames import of_comparison
from perturbify.escape import terminal

_FOREIGN = ("network", "group", "attack", "id")
_ROUNDED = ("accuracy", "low", "high")


def to_csv(comparison: Comparison) -> str:
    """Renders a comparison as CSV: a row for each network, attack and ε, and one for its worst case.

    Args:
        comparison: Any comparison.

    Returns:
        Lines that end with CR LF, the first one with the names of the columns. Accuracies and intervals are shares in
        [0, 1], ε is in pixels of [0, 1]; missing values are empty. Foreign names are made safe for a terminal.
    """
    rows = of_comparison(comparison)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows[0])
    writer.writerows([_cell(*cell) for cell in row.items()] for row in rows)
    return text.getvalue()


def _cell(name: str, value: Any) -> object:
    if name in _FOREIGN:
        return terminal(value)
    if name in _ROUNDED:
        return round(value, 6)
    return f"{value:.6g}" if name == "epsilon" and value is not None else value
