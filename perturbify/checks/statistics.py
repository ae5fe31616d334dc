"""Estimates and their intervals, from what single draws said of single images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

Shares = NDArray[np.float64]
"""For each image, the share of its draws that were right; shape (n,), in [0, 1]."""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95% interval of Wilson's score for a proportion (Wilson, 1927).

    Args:
        correct: Successes, from 0 to n.
        n: Trials, at least 1.

    Returns:
        Lower and upper bound in [0, 1].

    Raises:
        ValueError: There are no trials, or more successes than trials.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} of {n} is not a proportion")
    # Importing scipy.stats takes longer than much of what does not need it.
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(method="wilson")
    # With none or all right a bound is the share itself, which rounding must not move inwards.
    return min(correct / n, float(interval.low)), max(correct / n, float(interval.high))


def mean_interval(shares: Shares, *, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of a mean over images, by resampling the images.

    Where all images agree on 0 or 1, resampling them says nothing of those not seen, and Wilson's interval is taken.

    Args:
        shares: One value for each image, in [0, 1].
        seed: Of the resampling.

    Returns:
        Lower and upper bound in [0, 1].
    """
    if (shares == 0).all() or (shares == 1).all():
        return wilson(int(shares.sum()), len(shares))
    return _bootstrap(shares, seed) if len(shares) > 1 else (0.0, 1.0)


def difference_interval(first: Shares, second: Shares, *, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of ``first - second`` over the same images, which are resampled in pairs.

    Where no image differs, the interval is what Wilson's says of a difference that occurs in none of n images.

    Args:
        first: One value for each image, in [0, 1].
        second: The same images' other values.
        seed: Of the resampling.

    Returns:
        Lower and upper bound in [-1, 1].
    """
    differences = first - second
    if (differences == 0).all():
        _, rare = wilson(0, len(differences))
        return -rare, rare
    return _bootstrap(differences, seed) if len(differences) > 1 else (-1.0, 1.0)


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


def _bootstrap(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    from scipy.stats import bootstrap

    found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=seed)
    low, high = found.confidence_interval
    mean = float(values.mean())
    return min(mean, float(low)), max(mean, float(high))
