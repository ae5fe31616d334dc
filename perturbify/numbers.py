"""Numbers that somebody wrote, on a command line or in a recipe: how they are read, and how great they may be.

Whatever is written, reading it takes no longer than its first hundred characters do.
"""

from __future__ import annotations

import math
import re

MOST_IMAGES = 10**9
"""Of a dataset, or in a batch."""
MOST_STEPS = 10**6
"""Of an attack, a schedule, or whatever else is done again and again, such as draws of the noise."""
MOST_SEED = 2**32 - 1
MOST_SIDE = 10_000
"""Pixels a side of an image."""
MOST_PADDING = 256
MOST_VALUES = 10**8
"""Of one input, over all its channels, pixels and frames."""
MOST_CLASSES = 10**7
MOST_THETA = 10**6
MOST_RATE = 10**6
"""Of learning, decay, and whatever else is a factor."""

_LONGEST = 100
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)


def decimal(text: str) -> float | None:
    """The finite number that a text such as ``"0.031"`` or ``"1e-3"`` is; None where it is none."""
    if len(text) > _LONGEST or not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def whole(text: str) -> int | None:
    """The whole number that a text such as ``"128"`` is; None where it is none."""
    return int(text) if len(text) <= _LONGEST and _WHOLE.fullmatch(text) else None


def fraction(text: str) -> float | None:
    """The finite number that a text such as ``"8/255"`` or ``"0.031"`` is; None where it is none."""
    above, slash, below = text.partition("/")
    if not slash:
        return decimal(text.strip())
    numerator, denominator = whole(above.strip()), whole(below.strip())
    if numerator is None or not denominator:
        return None
    # Of integers, Python's division is exact up to its last rounding; hundred digits are within a float's size.
    return numerator / denominator
