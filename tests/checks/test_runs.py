"""Figures over training runs, held against scipy's and against what is known beforehand."""

import numpy as np
import pytest
from networks.greys import PLAN, brightness, noisy
from scipy import stats

from perturbify import check
from perturbify.checks.runs import WORST, Ahead, Pooled, Spread, over_runs, welch
from perturbify.checks.statistics import difference_interval, mean_interval


def test_the_spread_is_a_sample_deviation():
    spread = Spread.of([0.5, 0.7, 0.6])
    assert (spread.mean, spread.sd) == (pytest.approx(0.6), pytest.approx(0.1))
    assert (spread.low, spread.high, spread.runs) == (0.5, 0.7, 3)


def test_one_run_has_no_deviation():
    assert Spread.of([0.5]).sd is None
    assert welch([0.5], [0.1, 0.2, 0.3]) is welch([0.1, 0.2], [0.5]) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [([0.5, 0.7, 0.6], [0.1, 0.15, 0.2]), ([0.5, 0.52], [0.1, 0.9, 0.3, 0.2]), ([0.25, 0.26], [0.3, 0.2])],
)
def test_welchs_interval_matches_scipy(first, second):
    theirs = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert welch(first, second) == pytest.approx((theirs.low, theirs.high))


def test_welchs_interval_has_its_stated_coverage():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        low, high = welch(generator.normal(0.3, 0.02, 3), generator.normal(0.1, 0.05, 4))
        covered += low <= 0.2 <= high
    assert 0.935 < covered / 2000 < 0.975


def test_identical_runs_give_no_certainty():
    assert welch([0.5, 0.5], [0.25, 0.25]) is None


def rights(*shares, n=400, draws=4):
    generator = np.random.default_rng(1)
    return [generator.random((n, draws)) < share for share in shares]


def test_pooled_runs_are_counted_by_image():
    runs = rights(0.4, 0.5, 0.6)
    pooled = Pooled.of(runs, shared=False)
    assert pooled.over_runs == Spread.of([run.mean() for run in runs])
    assert pooled.over_images == mean_interval(np.hstack(runs))
    again = Pooled.of([runs[0]] * 3, shared=False)
    assert again.over_runs.sd == pytest.approx(0, abs=1e-12)
    assert again.over_images == pytest.approx(mean_interval(runs[0])), "the same run thrice says no more of images"


def test_a_difference_covers_images_and_runs():
    ours, theirs = rights(0.6, 0.7, 0.8), rights(0.3, 0.4)
    ahead = Ahead.of(ours, theirs, shared=False)
    assert ahead.value == pytest.approx(np.mean([r.mean() for r in ours]) - np.mean([r.mean() for r in theirs]))
    assert ahead.over_images == difference_interval(np.hstack(ours), np.hstack(theirs))
    assert ahead.over_runs == welch([r.mean() for r in ours], [r.mean() for r in theirs])
    assert Ahead.of(ours[:1], theirs, shared=False).over_runs is None


def test_shared_draws_vary_within_runs_alone():
    """Deterministic runs beside noisy ones whose images share their draws: the spread of runs is not that of draws."""
    generator = np.random.default_rng(2)
    plain = [generator.random((400, 1)) < share for share in (0.3, 0.5)]
    odds = [generator.normal(share, 0.02, 20) for share in (0.45, 0.65)]
    noisy = [generator.random((400, 20)) < each for each in odds]
    ahead = Ahead.of(noisy, plain, shared=True)
    value, (low, high) = ahead.value, ahead.over_images
    free = Ahead.of(noisy, plain, shared=False).over_images
    assert low < free[0] and high > free[1] and high - low < 1.5 * (free[1] - free[0])
    within = np.sqrt(sum(np.var(run.mean(axis=0), ddof=1) / 20 for run in noisy)) / 2
    from scipy.stats import t

    assert high == pytest.approx(value + np.hypot(free[1] - value, t.ppf(0.975, 38) * within))
    one, two = Pooled.of(noisy, shared=True).over_images, Pooled.of([noisy[0]] * 2, shared=True).over_images
    assert one[1] - one[0] < 0.2 and two == pytest.approx(mean_interval(noisy[0], shared=True), abs=0.01)
    assert Ahead.of(plain, plain, shared=True).over_images == (-1, 1), "one draw a run says nothing"


@pytest.mark.parametrize(
    ("images", "runs", "verdict"),
    [
        ((0.01, 0.2), None, "more"),
        ((-0.2, -0.01), None, "less"),
        ((-0.1, 0.2), None, "undecided"),
        ((0.01, 0.2), (0.05, 0.15), "more"),
        ((0.01, 0.2), (-0.3, 0.5), "undecided"),
        ((-0.1, 0.3), (0.05, 0.15), "undecided"),
        ((-0.2, -0.01), (-0.4, -0.05), "less"),
    ],
)
def test_a_verdict_needs_every_interval(images, runs, verdict):
    assert Ahead(0.1, images, runs).verdict == verdict


def test_reports_of_several_runs():
    split = brightness(20, 60)
    reports = [check(noisy(theta=theta), split, PLAN) for theta in (6.0, 12.0)]
    found = over_runs(reports)
    assert list(found)[:2] == ["clean", WORST]
    assert found[WORST] == Spread.of([r.headline.accuracy for r in reports])
    assert found["PGD-4"] == Spread.of([r.result("pgd").accuracy for r in reports])
    assert "PGD-4 transfer (noise off)" in found and found["clean"].runs == 2
