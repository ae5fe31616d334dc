"""Figures over training runs and over images: two sources of chance that say different things.

An interval over images says how the same weights would do on other images like these. The spread of training runs that
differ only in their seed says how another run would do on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from perturbify.checks.criteria import called, difference
from perturbify.checks.report import Report
from perturbify.checks.results import Figure
from perturbify.checks.statistics import LEVEL, Right

WORST = "worst case"
"""Name of the worst case of every image, in a list of attacks."""


@dataclass(frozen=True)
class Spread:
    """A figure over training runs.

    Attributes:
        mean: Their mean.
        sd: Their standard deviation, with n - 1; None for one run, which says nothing about another.
        low: The smallest.
        high: The greatest.
        runs: Number of runs.
    """

    mean: float
    sd: float | None
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value a run; at least one."""
        sd = stdev(values) if len(values) > 1 else None
        return cls(fmean(values), sd, min(values), max(values), len(values))


@dataclass(frozen=True)
class Pooled:
    """A figure of several runs on the same images.

    Attributes:
        over_runs: Mean and standard deviation over the runs.
        over_images: The 95% interval of the runs' mean over images, with these runs taken as given: an image's share is
            its mean over runs and draws.
    """

    over_runs: Spread
    over_images: tuple[float, float]

    @classmethod
    def of(cls, rights: Sequence[Right], *, shared: bool) -> Pooled:
        """Pools answers.

        Args:
            rights: For each run, image and draw, whether the answer was right; shape (n, K), bool.
            shared: Whether images shared their draws.
        """
        spread = Spread.of([float(right.mean()) for right in rights])
        return cls(spread, Figure.of(np.hstack(rights), shared=shared, runs=len(rights)).interval)


@dataclass(frozen=True)
class Ahead:
    """The paired difference of two groups of runs in the worst case, over the same images.

    Attributes:
        value: The difference of the means.
        over_images: Its paired 95% interval over images, with these runs taken as given.
        over_runs: Its 95% interval over training runs, with these images taken as given; None if a side has one run.
    """

    value: float
    over_images: tuple[float, float]
    over_runs: tuple[float, float] | None

    @classmethod
    def of(cls, first: Sequence[Right], second: Sequence[Right], *, shared: bool) -> Ahead:
        """The difference of two groups; arguments as for :class:`Pooled`."""
        figure = difference(np.hstack(first), np.hstack(second), shared=shared, runs=(len(first), len(second)))
        means = [[float(right.mean()) for right in rights] for rights in (first, second)]
        return cls(figure.value, figure.interval, welch(*means))

    @property
    def verdict(self) -> Literal["more", "less", "undecided"]:
        """``"more"`` or ``"less"`` robust; ``"undecided"`` if any of its intervals contains 0."""
        intervals = [self.over_images, *([] if self.over_runs is None else [self.over_runs])]
        if all(low > 0 for low, _ in intervals):
            return "more"
        return "less" if all(high < 0 for _, high in intervals) else "undecided"


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the difference of two means of independent runs whose variances may differ.

    Student's t with the degrees of freedom of Welch (Biometrika 34, 1947) and Satterthwaite (Biometrics 2, 1946).

    Args:
        first: One value a run.
        second: The same for other runs; their number may differ.

    Returns:
        None if a side has one run, or if all runs of a side are equal, which says nothing about another.
    """
    if min(len(first), len(second)) < 2:
        return None
    from scipy.special import stdtrit

    parts = [stdev(values) ** 2 / len(values) for values in (first, second)]
    value, variance = fmean(first) - fmean(second), sum(parts)
    if variance == 0:
        return None
    freedom = variance**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return value - reach, value + reach


def over_runs(reports: Sequence[Report]) -> dict[str, Spread]:
    """The figures of the same check on several runs.

    Args:
        reports: At least one.

    Returns:
        The figures by attack, the clean images and the worst case first; only attacks that were run on all.
    """
    found = {WORST: Spread.of([r.headline.accuracy for r in reports])}
    for result in reports[0].results:
        others = [r.result(result.id) for r in reports]
        if result.network == "itself" and all(others):
            name = called(result) if result.noise == reports[0].clean.noise else result.attack
            found[name] = Spread.of([r.accuracy for r in others if r is not None])
    clean = found.pop(reports[0].clean.attack)
    return {reports[0].clean.attack: clean, **found}
