"""The mathematics of a certificate: exact intervals, and the radius that they allow."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from perturbify.certification import certified_radius, clopper_pearson
from perturbify.methods.pixeldp import BOUND, DELTA, EPSILON, SENSITIVITY, noise_level

UNIT = math.sqrt(2 * math.log(1.25 / DELTA))
probabilities = st.floats(0, 1)


def test_pixeldps_noise_has_the_papers_size():
    assert round(noise_level(BOUND, EPSILON, DELTA, SENSITIVITY), 4) == 0.2537


# Clopper and Pearson


@given(st.integers(1, 2000), st.data(), st.floats(0.5, 0.9999))
def test_the_interval_matches_scipy(trials, data, confidence):
    k = data.draw(st.integers(0, trials))
    low, high = clopper_pearson([k], trials, confidence)
    expected = binomtest(k, trials).proportion_ci(confidence, method="exact")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_all_and_none_by_hand():
    """Of n draws none: ``(1 - p)^n = α/2`` at the upper bound, and the mirror image where all are."""
    edge = 0.025 ** (1 / 50)
    low, high = clopper_pearson([0, 50], 50, 0.95)
    assert low == pytest.approx([0, edge])
    assert high == pytest.approx([1 - edge, 1])
    assert low[0] == 0 and high[1] == 1


def test_bonferronis_bounds_cover_all_classes_at_once():
    p, draws, rounds = np.array([0.35, 0.3, 0.2, 0.1, 0.05]), 60, 4000
    votes = np.random.default_rng(0).multinomial(draws, p, size=rounds)

    def coverage(confidence):
        low, high = clopper_pearson(votes, draws, confidence)
        return ((low <= p) & (p <= high)).all(1).mean()

    assert coverage(1 - 0.05 / len(p)) >= 0.95
    assert coverage(0.95) < 0.94  # what the correction is for


@pytest.mark.parametrize(
    ("k", "trials", "confidence"), [([3], 2, 0.95), ([-1], 2, 0.95), ([0], 0, 0.95), ([1], 2, 0), ([1], 2, 1)]
)
def test_invalid_proportions_are_refused(k, trials, confidence):
    with pytest.raises(ValueError, match=r"must be counts|confidence"):
        clopper_pearson(k, trials, confidence)


# The radius


def test_a_radius_by_hand():
    """``p_top = 0.575``, ``p_other = 0.2``, ``δ = 0.05``.

    ``0.2 t² + 0.05 t + 0.05 = 0.575`` has the root ``t = 1.5``: 0.45 + 0.075 + 0.05. So ``ε = ln 1.5 = 0.405465``, and
    with ``σ = √(2 ln 25) = 2.537272`` and ``Δ = 2`` the radius is ``ε σ / (Δ √(2 ln 25)) = 0.405465 / 2 = 0.202733``.
    """
    assert certified_radius(0.575, 0.2, sigma=2.5372725, sensitivity=2, delta=0.05) == pytest.approx(0.202733, abs=1e-6)


def test_a_runner_up_without_votes():
    """Without a baseline the condition is ``p_top ≥ (1 + t) δ``: for 0.11, ``t = 1.2``."""
    assert certified_radius(0.11, 0, sigma=UNIT, sensitivity=1) == pytest.approx(math.log(1.2))


@given(probabilities, probabilities, st.floats(0.01, 10), st.floats(0.01, 10))
@example(1.0, 0.0, 1.0, 1.0)
@example(0.5, 0.5, 1.0, 1.0)
def test_the_condition_holds_exactly_up_to_the_radius(top, other, sigma, sensitivity):
    def holds(radius, slack):
        t = math.exp(radius * sensitivity * UNIT / sigma)
        return top + slack >= t * t * other + (1 + t) * DELTA

    radius = float(certified_radius(top, other, sigma=sigma, sensitivity=sensitivity))
    greatest = sigma / (sensitivity * UNIT)
    assert 0 <= radius <= greatest * (1 + 1e-12)
    if radius == 0:
        assert not holds(1e-6 * greatest, 0) or top <= other + 2 * DELTA + 1e-5
        return
    assert holds(radius, 1e-9)
    if radius < greatest * (1 - 1e-9):
        assert not holds(radius * (1 + 1e-6) + 1e-9 * greatest, -1e-12)


@given(probabilities, probabilities)
def test_a_certified_class_leads_by_a_margin(top, other):
    assume(certified_radius(top, other, sigma=1, sensitivity=1) > 0)
    assert top > other + 2 * DELTA - 1e-12


def test_arrays_and_no_noise():
    radii = certified_radius([0.9, 0.575, 0.3], [0.01, 0.2, 0.3], sigma=UNIT, sensitivity=1)
    assert radii == pytest.approx([1, math.log(1.5), 0])
    assert (certified_radius([0.9, 0.6], [0, 0], sigma=0, sensitivity=1) == 0).all()
    assert certified_radius(0.9, 0, sigma=1, sensitivity=math.inf) == 0
