"""The intervals against published values, what must hold of any, and how often they hold the truth."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import expit, logit
from scipy.stats import sem, t

from perturbify.checks.statistics import (
    difference_interval,
    mean_interval,
    shares_interval,
    surviving,
    wilson,
    worst_of,
)

Z = NormalDist().inv_cdf(0.975)

proportions = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(correct, n, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(correct, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(proportions)
def test_wilson_contains_the_proportion_within_0_and_1(proportion):
    correct, n = proportion
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert low < high


@given(proportions, st.integers(2, 50))
def test_it_shrinks_as_n_grows(proportion, times):
    correct, n = proportion
    (low, high), (wide_low, wide_high) = wilson(correct * times, n * times), wilson(correct, n)
    assert high - low < wide_high - wide_low


@given(proportions)
def test_it_treats_right_and_wrong_alike(proportion):
    correct, n = proportion
    low, high = wilson(correct, n)
    assert wilson(n - correct, n) == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))


@given(proportions)
def test_its_bounds_are_where_the_score_test_rejects(proportion):
    """The definition: |p - p₀| = z √(p₀ (1 - p₀) / n) at both ends."""
    correct, n = proportion
    p = correct / n
    for bound in wilson(correct, n):
        assert abs(p - bound) == pytest.approx(Z * max(0, bound * (1 - bound) / n) ** 0.5, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 10), (11, 10), (0, -1)])
def test_invalid_proportions_are_refused(correct, n):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(correct, n)


answers = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))
pairs = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.integers(1, 12).flatmap(lambda draws: arrays(bool, (n, draws)))] * 2)
)
"""Two networks' answers to the same images, each with its own number of draws."""
like = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2))


def column(correct, n):
    return np.arange(n)[:, None] < correct


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_one_draw_gives_wilsons_interval(proportion):
    assert mean_interval(column(*proportion)) == pytest.approx(wilson(*proportion), abs=1e-12)


@given(answers, st.booleans())
def test_an_interval_contains_the_mean_within_0_1(right, shared):
    low, high = mean_interval(right, shared=shared)
    assert 0 <= low <= right.mean(axis=1).mean() <= high <= 1
    assert low < high


@given(answers)
def test_shares_and_their_answers_have_equal_intervals(right):
    assert shares_interval(right.mean(axis=1)) == mean_interval(right)


@given(answers, st.booleans())
def test_right_and_wrong_are_treated_alike(right, shared):
    low, high = mean_interval(right, shared=shared)
    assert mean_interval(~right, shared=shared) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(answers)
def test_shared_draws_only_widen_it(right):
    (low, high), (wide_low, wide_high) = mean_interval(right), mean_interval(right, shared=True)
    assert wide_low <= low
    assert high <= wide_high


@given(answers, st.integers(2, 5))
def test_more_similar_images_narrow_it(right, times):
    low, high = mean_interval(np.tile(right, (times, 1)))
    wide_low, wide_high = mean_interval(right)
    assert high - low < wide_high - wide_low


@given(answers, st.integers(2, 5))
def test_repeating_the_same_draws_changes_nothing(right, times):
    assert mean_interval(np.tile(right, times)) == pytest.approx(mean_interval(right), abs=1e-9)


@given(answers)
def test_bounds_invert_a_score_test_with_extreme_images(right):
    """The definition, with the mixture's mean and variance summed over its values."""
    shares = right.mean(axis=1)
    for bound, extreme in zip(mean_interval(right), (0, 1), strict=True):
        w = (bound - shares.mean()) / (extreme - shares.mean()) if shares.mean() != extreme else 0
        values, weights = np.append(shares, extreme), np.append(np.full(len(shares), (1 - w) / len(shares)), w)
        assert weights @ values == pytest.approx(bound, abs=1e-9)
        variance = weights @ (values - bound) ** 2
        assert (bound - shares.mean()) ** 2 == pytest.approx(Z**2 * variance / len(shares), abs=1e-9)


@given(pairs, st.booleans())
def test_a_difference_interval_contains_it_within_1(pair, shared):
    first, second = pair
    low, high = difference_interval(first, second, shared=shared)
    assert -1 <= low <= (first.mean(axis=1) - second.mean(axis=1)).mean() <= high <= 1
    assert low < high


@given(pairs, st.booleans())
def test_a_difference_is_antisymmetric(pair, shared):
    first, second = pair
    low, high = difference_interval(first, second, shared=shared)
    assert difference_interval(second, first, shared=shared) == pytest.approx((-high, -low), abs=1e-9)


@given(pairs, st.integers(2, 5))
def test_more_similar_pairs_narrow_a_difference(pair, times):
    first, second = pair
    low, high = difference_interval(np.tile(first, (times, 1)), np.tile(second, (times, 1)))
    wide_low, wide_high = difference_interval(first, second)
    assert high - low < wide_high - wide_low


@given(pairs)
def test_shared_draws_only_widen_a_difference(pair):
    (low, high), (wide_low, wide_high) = difference_interval(*pair), difference_interval(*pair, shared=True)
    assert wide_low <= low
    assert high <= wide_high


@given(like, st.randoms(use_true_random=False))
def test_the_order_of_independent_draws_is_irrelevant(pair, random):
    first, second = pair
    order = list(range(first.shape[1]))
    random.shuffle(order)
    assert difference_interval(first[:, order], second) == pytest.approx(difference_interval(first, second), abs=1e-9)


@given(st.integers(1, 2000))
def test_without_differing_images_the_interval_is_wilsons(n):
    same = column(n // 3, n)
    _, rare = wilson(0, n)
    assert difference_interval(same, same) == pytest.approx((-rare, rare), abs=1e-12)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_with_one_sided_differences_one_bound_is_wilsons(proportion):
    none = column(0, proportion[1])
    low, high = difference_interval(column(*proportion), none)
    assert high == pytest.approx(wilson(*proportion)[1], abs=1e-12)
    assert low < wilson(*proportion)[0]


def test_ties_of_256_images():
    none, one = column(0, 256), column(1, 256)
    assert difference_interval(none, none)[1] < 0.015
    assert difference_interval(one, none)[1] < 0.022


def test_identical_images_give_students_interval_over_draws():
    draws = np.array([1, 1, 0, 1, 0, 1, 1, 0, 1, 0], bool)
    right, never = np.tile(draws, (10_000, 1)), column(0, 10_000)
    expected = t.interval(0.95, 9, 0.6, sem(draws))
    assert difference_interval(right, never, shared=True) == pytest.approx(expected, abs=1e-4)
    expected = expit(t.interval(0.95, 9, logit(0.6), sem(draws) / 0.6 / 0.4))
    assert mean_interval(right, shared=True) == pytest.approx(expected, abs=1e-4)


def test_pairing_cancels_shared_noise():
    """All images answer alike in each draw, and one network fails at a fifth of the images in all."""
    draws = np.random.default_rng(0).random(20) < 0.5
    second = np.tile(draws, (100, 1))
    first = second & (np.arange(100)[:, None] >= 20)
    low, high = difference_interval(first, second, shared=True)
    wide_low, wide_high = difference_interval(first, second[:, :-1], shared=True)
    assert high - low < (wide_high - wide_low) / 2


def test_a_single_shared_draw_says_nothing():
    right = column(50, 100)
    assert mean_interval(right, shared=True) == (0, 1)
    assert difference_interval(right, right, shared=True) == (-1, 1)


def test_deterministic_and_shared_noise_networks_can_be_compared():
    right = np.random.default_rng(0).random((100, 20)) < 0.5
    single = column(50, 100)
    repeated = np.repeat(single, 20, axis=1)
    assert difference_interval(right, single, shared=True) == pytest.approx(
        difference_interval(right, repeated, shared=True)
    )


@pytest.mark.parametrize("right", [np.ones((3, 2)), np.ones(3, bool), np.ones((0, 2), bool), np.ones((2, 0), bool)])
def test_malformed_answers_are_refused(right):
    with pytest.raises(ValueError, match="not right or wrong"):
        mean_interval(right)
    with pytest.raises(ValueError, match="not right or wrong"):
        difference_interval(right, np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="not right or wrong"):
        difference_interval(np.ones((3, 2), bool), right)
    with pytest.raises(ValueError, match="not right or wrong"):
        worst_of(np.ones((1, 3)), [right])


def test_different_images_are_refused():
    with pytest.raises(ValueError, match="3 images are not paired with 4"):
        difference_interval(np.ones((3, 2), bool), np.ones((4, 2), bool))


def covered(intervals, truth):
    low, high = np.transpose(intervals)
    return np.mean((low <= truth) & (truth <= high))


MIXTURES = {
    "wholly right or wrong": lambda rng, mean: (rng.random(256) < mean).astype(float),
    "mild": lambda rng, mean: rng.beta(20 * mean, 20 - 20 * mean, 256),
    "few": lambda rng, mean: (rng.random(256) < 2 * mean) * rng.uniform(0.1, 0.9, 256),
    "few wholly right": lambda rng, mean: np.where(rng.random(256) < 0.4 * mean, 1, 0.6 * mean / (1 - 0.4 * mean)),
}


def draw(rng, p, draws):
    return np.arange(draws) < rng.binomial(draws, p)[:, None]


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("mean", [0.01, 0.1, 0.5])
def test_coverage(mixture, mean):
    """1000 intervals: 93% less three standard errors. benchmarks/coverage.py has more settings and repetitions."""
    rng = np.random.default_rng(0)
    found = [mean_interval(draw(rng, MIXTURES[mixture](rng, mean), 20)) for _ in range(1000)]
    assert covered(found, mean) >= 0.93 - 0.024


def test_for_similar_images_it_is_narrower_than_wilsons():
    right = draw(np.random.default_rng(0), np.full(256, 0.5), 200)
    (low, high), (wide_low, wide_high) = mean_interval(right), wilson(128, 256)
    assert high - low < (wide_high - wide_low) / 4


@pytest.mark.parametrize("draws", [10, 20])
@pytest.mark.parametrize(("least", "most"), [(0, 0.3), (0.3, 1)])
def test_coverage_with_shared_draws(least, most, draws):
    """A draw gets half of the images right with a probability of its own, and none of the others."""
    rng = np.random.default_rng(0)
    found = {True: [], False: []}
    for _ in range(500):
        p = np.outer(rng.random(256) < 0.5, rng.uniform(least, most, draws))
        right = rng.random(p.shape) < p
        for shared, intervals in found.items():
            intervals.append(mean_interval(right, shared=shared))
    truth = (least + most) / 4
    assert covered(found[True], truth) >= 0.93 - 0.034
    assert covered(found[False], truth) < covered(found[True], truth)


@pytest.mark.parametrize("draws", [1, 20])
@pytest.mark.parametrize("difference", [0, 0.01, 0.05])
@pytest.mark.parametrize("back", [0, 0.01])
def test_coverage_of_differences(difference, back, draws):
    """Few images differ: some are won in shares, some lost wholly."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        u = rng.random(256)
        first = (u < (difference + back) / 0.6) * rng.uniform(0.2, 1, 256)
        found.append(difference_interval(draw(rng, first, draws), draw(rng, u > 1 - back, draws)))
    assert covered(found, difference) >= 0.93 - 0.024


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("queries", [1, 2, 6])
def test_surviving_few_queries_is_unbiased(p, queries):
    """Averaged over all outcomes of the draws, the estimate is the chance to the power of the queries."""
    draws = 6
    chances = [math.comb(draws, right) * p**right * (1 - p) ** (draws - right) for right in range(draws + 1)]
    assert chances @ surviving(range(draws + 1), [0] * (draws + 1), draws, queries) == pytest.approx(p**queries)


def test_only_images_that_outlast_the_queries_survive():
    assert surviving([20, 20, 3], [100, 57, 2], 20, 100).tolist() == [1, 0, 0]
    assert surviving([20, 20, 3], [100, 57, 2], 20, 50).tolist() == [1, 1, 0]
    assert surviving([5, 0], [5, 0], 5, 1).tolist() == [1, 0]


def test_the_worst_of_equal_attacks_is_unbiased():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 0.8, 2000)
    choice, *right = [np.stack([draw(rng, p, 10) for _ in range(8)]) for _ in range(2)]
    shares = choice.mean(axis=2)
    assert worst_of(shares, list(right[0])).mean() == pytest.approx(p.mean(), abs=0.01)
    assert shares.min(axis=0).mean() < p.mean() - 0.1


def test_the_worst_case_is_chosen_for_each_image():
    nan = float("nan")
    choice = np.array([[0.5, 0.2, nan, 0.0], [0.5, 0.1, 0.9, nan]])
    first, second = np.zeros((4, 3), bool), np.ones((4, 3), bool)
    assert worst_of(choice, [first, second]).tolist() == [[False] * 3, [True] * 3, [True] * 3, [False] * 3]


def test_an_image_without_a_case_is_refused():
    with pytest.raises(ValueError, match="no case"):
        worst_of(np.array([[0.5, np.nan]]), [np.ones((2, 3), bool)])


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (3,)])
def test_choices_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="are not for"):
        worst_of(np.ones(shape), [np.ones((3, 4), bool)] * 2)
