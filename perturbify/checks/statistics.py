"""Intervals."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""


def wilson(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson, 1927).

    Args:
        correct: Successes, from 0 to n.
        n: Trials, at least 1.
        z: Quantile of the normal distribution; the default makes it a 95% interval.

    Returns:
        Lower and upper bound in [0, 1].
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} of {n} is not a proportion")
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # With none or all right a bound is p itself, which rounding must not move inwards.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
