"""Estimates and their intervals, from what single draws said of single images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""

RESAMPLES = 2000

Shares = NDArray[np.float64]
"""For each image, the share of its draws that were right; shape (n,), in [0, 1]."""


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


def mean_interval(shares: Shares, *, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of a mean over images, by resampling the images.

    Where all images agree on 0 or 1, resampling them says nothing of those not seen, and Wilson's interval is taken.

    Args:
        shares: One value for each image, in [0, 1].
        seed: Of the resampling.
    """
    if (shares == 0).all() or (shares == 1).all():
        return wilson(int(shares.sum()), len(shares))
    low, high = np.percentile(_resample(shares, seed), (2.5, 97.5))
    mean = float(shares.mean())
    return min(mean, float(low)), max(mean, float(high))


def difference_interval(first: Shares, second: Shares, *, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of ``first - second`` over the same images, which are resampled in pairs.

    Where no image differs, the interval is what Wilson's says of a difference that occurs in none of n images.

    Args:
        first: One value for each image, in [0, 1].
        second: The same images' other values.
        seed: Of the resampling.
    """
    differences = first - second
    if (differences == 0).all():
        _, rare = wilson(0, len(differences))
        return -rare, rare
    low, high = np.percentile(_resample(differences, seed), (2.5, 97.5))
    mean = float(differences.mean())
    return min(mean, float(low)), max(mean, float(high))


def survival(right: Sequence[int], lasted: Sequence[int], draws: int, queries: int) -> float:
    """Share of images that are right in each of N queries; unbiased.

    Args:
        right: For each image, how many of its draws were right.
        lasted: For each image, how many queries in a row were right from the first on, capped at some number that is
            at least ``queries`` where ``queries > draws``.
        draws: Draws that ``right`` counts.
        queries: N.
    """
    if queries > draws:
        return float(np.mean([n >= queries for n in lasted]))
    # Of all ways to pick N of the draws, those that pick only right ones.
    return float(np.mean([math.comb(n, queries) / math.comb(draws, queries) for n in right]))


def _resample(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    n = len(values)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    means: NDArray[np.float64] = weights @ values / n
    return means
