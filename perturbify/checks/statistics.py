"""Estimates and their intervals, from the answers of single draws for single images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

Right = NDArray[np.bool_]
"""For each image and each scoring draw, whether the answer was right; shape (n, K), K = 1 without randomness."""

Shares = NDArray[np.float64]
"""For each image, the share of its draws that were right; shape (n,), in [0, 1]."""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95% interval of Wilson's score for a proportion (Wilson, JASA 22, 1927).

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
    p, q = correct / n, (n - correct) / n
    return p - _reach(p * q, p, n), p + _reach(p * q, q, n)


def mean_interval(right: Right, *, shared: bool = False, runs: int = 1) -> tuple[float, float]:
    """95% interval of the accuracy over all images like these, and over all draws.

    Wilson's score (1927) for the images' shares in place of single trials: a bound is where the estimate is 1.96
    standard errors away, and the variance is the one at the bound: that of the shares with just enough wholly right or
    wholly wrong images mixed in to move their mean to the bound. With one draw this is Wilson's interval. With more it
    is narrower, as shares vary less than right and wrong do, and still allows for kinds of images missing from the
    sample.

    Where the images share their draws, the variance between draws is that of the columns' means. It widens the
    interval in quadrature, by Student's t with K - 1 degrees of freedom on the scale of the log-odds, which keeps the
    skewness near 0 and 1. K draws say nothing about rare draws that are unlike all others.

    Args:
        right: Whether image i was right in draw k; shape (n, K).
        shared: Whether draw k is the same noise for several images, in a batch or in all. One such draw says nothing
            about others, so the interval is then (0, 1): leave it False for a deterministic network.
        runs: Training runs that the columns come from, one after the other, each with equally many draws. The runs are
            taken as given: only draws within them vary.

    Returns:
        Lower and upper bound in [0, 1].

    Raises:
        ValueError: ``right`` is not a bool array with two axes, or it is empty.
    """
    _demand(right)
    n, draws = right.shape
    if shared and draws == runs:
        return 0.0, 1.0
    shares = right.mean(axis=1)
    mean, variance = float(shares.mean()), float(shares.var())
    below, above = _reach(variance, mean, n), _reach(variance, 1 - mean, n)
    if shared and 0 < mean < 1:
        odds = mean / (1 - mean)
        factor = math.exp(_draws_reach(right.mean(axis=0), runs) / (mean * (1 - mean)))
        below = math.hypot(below, mean - odds / (odds + factor))
        above = math.hypot(above, odds / (odds + 1 / factor) - mean)
    return max(0.0, mean - below), min(1.0, mean + above)


def shares_interval(shares: Shares) -> tuple[float, float]:
    """The interval of :func:`mean_interval` for one value in [0, 1] per image; shape (n,)."""
    mean, variance = float(shares.mean()), float(shares.var())
    n = len(shares)
    return max(0.0, mean - _reach(variance, mean, n)), min(1.0, mean + _reach(variance, 1 - mean, n))


def difference_interval(
    first: Right, second: Right, *, shared: bool = False, runs: tuple[int, int] = (1, 1)
) -> tuple[float, float]:
    """95% interval of the difference of two accuracies, paired by image.

    The score interval of :func:`mean_interval` for the images' differences of shares, from -1 to 1; as in Tango's
    (Statistics in Medicine 17, 1998) the variance is the one at the bound. If no image differs, both bounds are
    Wilson's for an event that occurs in none of n images; if all that differ do so in one direction, and there is one
    draw, the bound on that side is Wilson's.

    Where the images share their draws, the variance between draws widens it in quadrature, by Student's t: that of the
    differences of the columns' means if both have the same number of draws, which are then paired, else the sum of
    both.

    Args:
        first: Whether image i was right in draw k; shape (n, K₁).
        second: The same images with the other network or attack; shape (n, K₂).
        shared: Whether a draw is the same noise for several images. Then a single column against several is a
            deterministic network, and two single columns say nothing about other draws: the interval is (-1, 1).
        runs: Training runs of each side, as for :func:`mean_interval`; a run of a single column is deterministic.

    Returns:
        Lower and upper bound in [-1, 1].

    Raises:
        ValueError: One is not a bool array with two axes, or is empty, or their numbers of images differ.
    """
    _demand(first)
    _demand(second)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} images are not paired with {len(second)}")
    if shared and (first.shape[1], second.shape[1]) == runs:
        return -1.0, 1.0
    n = len(first)
    differences = first.mean(axis=1) - second.mean(axis=1)
    mean, variance = float(differences.mean()), float(differences.var())
    below, above = _reach(variance, 1 + mean, n), _reach(variance, 1 - mean, n)
    if shared:
        columns = list(zip((first.mean(axis=0), second.mean(axis=0)), runs, strict=True))
        if first.shape == second.shape and runs[0] == runs[1]:
            columns = [(columns[0][0] - columns[1][0], runs[0])]
        draws = math.hypot(*(_draws_reach(means, number) for means, number in columns if len(means) > number))
        below, above = math.hypot(below, draws), math.hypot(above, draws)
    return max(-1.0, mean - below), min(1.0, mean + above)


def worst_of(choice: NDArray[np.float64], right: Sequence[Right]) -> Right:
    """The worst case of every image, chosen on some draws and scored on others.

    The smallest of several estimates is too small on average. On draws that had no part in the choice, the accuracy
    under the chosen cases is unbiased.

    Args:
        choice: The share right in the draws to choose by, for each case and image; shape (cases, n), NaN where a case
            was not run on an image.
        right: For each case, whether image i was right in scoring draw k; shape (n, K) each.

    Returns:
        For every image, the row of ``right`` with the smallest choice, the first of equal ones; shape (n, K).

    Raises:
        ValueError: An image has no case, or the shapes do not fit.
    """
    for scored in right:
        _demand(scored)
    stacked = np.stack(right)
    if choice.shape != stacked.shape[:2]:
        raise ValueError(
            f"choices of shape {choice.shape} are not for {stacked.shape[0]} cases, {stacked.shape[1]} images"
        )
    if np.isnan(choice).all(axis=0).any():
        raise ValueError("an image has no case to choose from")
    return stacked[np.nanargmin(choice, axis=0), np.arange(choice.shape[1])]


def surviving(right: Sequence[int], lasted: Sequence[int], draws: int, queries: int) -> Shares:
    """For each image, an unbiased estimate of the probability of being right in each of N queries; shape (n,).

    Args:
        right: For each image, how many of its draws were right.
        lasted: For each image, how many queries in a row were right from the first on, capped at some number that is
            at least ``queries`` where ``queries > draws``.
        draws: Draws that ``right`` counts.
        queries: N.
    """
    if queries > draws:
        return np.array([float(n >= queries) for n in lasted])
    # The share of all ways to pick N of the draws that pick only right ones.
    return np.array([math.comb(n, queries) / math.comb(draws, queries) for n in right])


def _demand(right: Right) -> None:
    if right.dtype != np.bool_ or right.ndim != 2 or not right.size:
        raise ValueError(f"{right.dtype} of shape {right.shape} is not right or wrong for images and draws")


def _reach(variance: float, room: float, n: int) -> float:
    """How far a bound is from the mean of n values with this variance and at most ``room`` from their mean.

    With a share w of values at that end mixed in, the mean moves by d = w room, and the variance becomes
    (1 - w) (variance + d room). The bound is at d² = z² / n times that.
    """
    if room <= 0:
        return 0.0
    c = Z * Z / n
    half = c * (room - variance / room) / 2
    return (half + math.sqrt(half * half + (1 + c) * c * variance)) / (1 + c)


def _draws_reach(means: NDArray[np.float64], runs: int) -> float:
    """Half the width of Student's interval for the mean of K > 1 independent values in each of so many given runs."""
    from scipy.special import stdtrit

    variance = means.reshape(runs, -1).var(axis=1, ddof=1).mean() / len(means)
    return float(stdtrit(len(means) - runs, (1 + LEVEL) / 2) * math.sqrt(variance))
