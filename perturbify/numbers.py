"""Parsing and limits of numbers from a command line or a recipe.

Parsing takes bounded time: anything over a hundred characters is rejected.
"""

from __future__ import annotations

import math
import re

MOST_IMAGES = 10**9
"""Images in a dataset or a batch."""
MOST_STEPS = 10**6
"""Steps of an attack or a schedule, or any other repetitions, such as draws of the noise."""
MOST_SEED = 2**32 - 1
MOST_SIDE = 10_000
"""Pixels per side of an image."""
MOST_PADDING = 256
MOST_VALUES = 10**8
"""Values in one input, over all channels, pixels and frames."""
MOST_CLASSES = 10**7
MOST_THETA = 10**6
MOST_RATE = 10**6
"""Learning rate, decay, or any other factor."""

_LONGEST = 100
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)


def decimal(text: str) -> float | None:
    """Parses a finite number such as ``"0.031"`` or ``"1e-3"``; None if it is not one."""
    if len(text) > _LONGEST or not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def whole(text: str) -> int | None:
    """Parses an integer such as ``"128"``; None if it is not one."""
    return int(text) if len(text) <= _LONGEST and _WHOLE.fullmatch(text) else None


def fraction(text: str) -> float | None:
    """Parses a finite number such as ``"8/255"`` or ``"0.031"``; None if it is not one."""
    above, slash, below = text.partition("/")
    if not slash:
        return decimal(text.strip())
    numerator, denominator = whole(above.strip()), whole(below.strip())
    if numerator is None or not denominator:
        return None
    # Python's integer division is correctly rounded; a hundred digits fit a float's range.
    return numerator / denominator
