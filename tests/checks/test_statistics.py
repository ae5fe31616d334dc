"""Wilson's interval against published values, and what must hold of any."""

from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbify.checks.statistics import wilson

proportions = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(correct, n, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(correct, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(proportions)
def test_it_holds_the_proportion_and_lies_in_0_1(proportion):
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
    p, z = correct / n, NormalDist().inv_cdf(0.975)
    for bound in wilson(correct, n):
        assert abs(p - bound) == pytest.approx(z * max(0, bound * (1 - bound) / n) ** 0.5, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 10), (11, 10), (0, -1)])
def test_what_is_no_proportion_is_refused(correct, n):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(correct, n)
