"""How often the checks' 95% intervals cover the truth: ``python -m benchmarks.coverage -o OUTPUT.json``.

Right and wrong answers are drawn for images whose probabilities come from a known distribution, and the intervals of
:mod:`perturbify.checks.statistics` are computed from them. Each setting yields the share of repetitions in which the
interval covered the true mean, and the interval's mean width; for accuracies also its ratio to Wilson's width for n
single trials. A coverage from 2000 repetitions has a standard error of 0.5 points at 95%.

In the settings with shared draws, the log-odds of all images shift together from draw to draw, normally distributed
with the setting's standard deviation; around a mean accuracy of 50%, 0.2, 0.5 and 1 shift the accuracy by about 4, 10
and 18 points.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perturbify.checks.statistics import Right, difference_interval, mean_interval, wilson

Floats = NDArray[np.float64]
Setting = dict[str, Any]

SIZES = (64, 256, 1000)
MEANS = (0.01, 0.1, 0.5)
MIXTURES = ("wholly", "equal", "mild", "wide", "sparse", "rare")
DIFFERENCES = (0, 0.01, 0.015, 0.05)
CONTRASTS = ("one way", "both ways", "shares", "some noisy", "all noisy", "rare loss")
SHIFTS = (0.0, 0.2, 0.5, 1.0)
SPREAD = 1.0
"""Standard deviation of the log-odds over the images, with shared draws."""


def probabilities(mixture: str, mean: float, n: int, rng: np.random.Generator) -> Floats:
    """The images' probabilities of a right answer, with the given mean over all images; shape (n,)."""
    if mixture == "wholly":
        return (rng.random(n) < mean).astype(float)
    if mixture == "equal":
        return np.full(n, mean)
    if mixture in ("mild", "wide"):
        weight = {"mild": 20, "wide": 2}[mixture]
        return rng.beta(weight * mean, weight * (1 - mean), n)
    if mixture == "sparse":  # zero, and a few between 0.1 and 0.9; at a mean of 0.5 all
        return (rng.random(n) < 2 * mean) * rng.uniform(0.1, 0.9, n)
    if mixture == "rare":  # all equal except a few that are always right
        few = 0.4 * mean
        return np.where(rng.random(n) < few, 1.0, (mean - few) / (1 - few))
    raise ValueError(mixture)


def contrast(kind: str, difference: float, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The images' probabilities under two networks whose means differ by ``difference``; shape (n,) each."""
    u, zero = rng.random(n), np.zeros(n)
    if kind == "one way":
        return (u < difference).astype(float), zero
    if kind == "both ways":
        return (u < 0.01 + difference).astype(float), (u > 0.99).astype(float)
    if kind == "shares":
        return (u < difference / 0.6) * rng.uniform(0.2, 1, n), zero
    if kind == "some noisy":
        second = rng.uniform(0.1, 0.4, n)
        return (u < 0.1) * (second + 10 * difference), (u < 0.1) * second
    if kind == "all noisy":
        return np.full(n, 0.8), np.full(n, 0.8 - difference)
    if kind == "rare loss":
        return np.where(u < 0.01, 0, (difference + 0.01) / 0.99), (u < 0.01).astype(float)
    raise ValueError(kind)


def draw(p: Floats, draws: int, rng: np.random.Generator) -> Right:
    """Independent draws; the order of an image's right ones does not matter, so they come first."""
    return np.arange(draws) < rng.binomial(draws, p)[:, None]


def draw_shared(logits: Floats, shifts: Floats, rng: np.random.Generator) -> Right:
    """Draws whose log-odds are the image's plus the draw's; shape (n, K)."""
    u = rng.random((len(logits), len(shifts)), dtype=np.float32)
    return u * (1 + np.exp(-logits)[:, None].astype(np.float32) * np.exp(-shifts).astype(np.float32)) < 1


def mean_of(center: float, deviation: float) -> float:
    """Mean of the logistic function of a normal variable."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(weights @ (1 / (1 + np.exp(-center - deviation * points))) / weights.sum())


def center_of(mean: float, deviation: float) -> float:
    """The inverse of :func:`mean_of` in its first argument, by bisection."""
    low, high = -20.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if mean_of(middle, deviation) < mean else (low, middle)
    return low


def accuracies(repetitions: int, rng: np.random.Generator) -> Iterable[Setting]:
    """Intervals of accuracies with independent draws. With one draw all mixtures are the same."""
    for draws, n, mean in itertools.product((1, 10, 20, 200), SIZES, MEANS):
        for mixture in MIXTURES if draws > 1 else MIXTURES[:1]:
            samples = (draw(probabilities(mixture, mean, n, rng), draws, rng) for _ in range(repetitions))
            found = [(*mean_interval(right), *_wilson(right)) for right in samples]
            yield {"draws": draws, "n": n, "mean": mean, "mixture": mixture} | _summary(found, mean)


def shared_accuracies(repetitions: int, rng: np.random.Generator) -> Iterable[Setting]:
    """Intervals of accuracies where all images share each draw."""
    for draws, n, mean, shift in itertools.product((10, 20, 200), SIZES, MEANS, SHIFTS):
        center = center_of(mean, (SPREAD**2 + shift**2) ** 0.5)
        found = []
        for _ in range(repetitions):
            logits, shifts = center + SPREAD * rng.normal(size=n), shift * rng.normal(size=draws)
            right = draw_shared(logits, shifts, rng)
            found.append((*mean_interval(right, shared=True), *_wilson(right)))
        yield {"draws": draws, "n": n, "mean": mean, "shift": shift} | _summary(found, mean)


def differences(repetitions: int, rng: np.random.Generator) -> Iterable[Setting]:
    """Intervals of differences with independent draws."""
    for draws, n, difference, kind in itertools.product((1, 20, 50), SIZES, DIFFERENCES, CONTRASTS):
        found = []
        for _ in range(repetitions):
            first, second = contrast(kind, difference, n, rng)
            found.append(difference_interval(draw(first, draws, rng), draw(second, draws, rng)))
        setting = {"draws": draws, "n": n, "difference": difference, "contrast": kind}
        yield setting | _summary(found, difference)


def shared_differences(repetitions: int, rng: np.random.Generator) -> Iterable[Setting]:
    """Intervals of differences where all images share each draw, and both networks do (paired) or not."""
    for draws, n, mean, shift, paired in itertools.product((10, 20), SIZES, MEANS, SHIFTS[1:3], (True, False)):
        deviation = (SPREAD**2 + shift**2) ** 0.5
        center = center_of(mean, deviation)
        truth = mean_of(center + 0.1, deviation) - mean
        found = []
        for _ in range(repetitions):
            logits, shifts = center + SPREAD * rng.normal(size=n), shift * rng.normal(size=draws)
            others = shifts if paired else shift * rng.normal(size=2 * draws)
            first, second = draw_shared(logits + 0.1, shifts, rng), draw_shared(logits, others, rng)
            found.append(difference_interval(first, second, shared=True))
        setting = {"draws": draws, "n": n, "mean": mean, "shift": shift, "paired": paired}
        yield setting | _summary(found, truth)


def _wilson(right: Right) -> tuple[float, float]:
    return wilson(round(right.mean() * len(right)), len(right))


def _summary(found: list[Any], truth: float) -> Setting:
    bounds = np.array(found)
    width = (bounds[:, 1] - bounds[:, 0]).mean()
    summary = {
        "coverage": float(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean()),
        "width": round(float(width), 5),
    }
    if bounds.shape[1] == 4:
        summary["over wilson"] = round(float(width / (bounds[:, 3] - bounds[:, 2]).mean()), 3)
    return summary


def main(output: Path, repetitions: int, seed: int) -> None:
    """Runs all settings, prints the lowest coverages, and writes one JSON file."""
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "numpy": np.__version__,
        "seed": seed,
        "repetitions": repetitions,
    }
    rng = np.random.default_rng(seed)
    for part in (accuracies, shared_accuracies, differences, shared_differences):
        settings = result[part.__name__] = list(part(repetitions, rng))
        lowest = min(settings, key=lambda setting: float(setting["coverage"]))
        print(part.__name__.replace("_", " "), "lowest:", lowest, flush=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--repetitions", type=int, default=2000, help="of each setting")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.output, arguments.repetitions, arguments.seed)
