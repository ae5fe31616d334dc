"""From votes to bounds on class probabilities, and from those to a radius."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perturbify.certification.gaussian import DELTA, noise_level

Floats = NDArray[np.float64]


def clopper_pearson(successes: ArrayLike, trials: int, confidence: float) -> tuple[Floats, Floats]:
    """Exact two-sided interval for a proportion (Clopper and Pearson, 1934).

    Args:
        successes: Integers from 0 to ``trials``, any shape.
        trials: At least 1.
        confidence: Minimum probability, in (0, 1), that the interval covers the proportion.

    Returns:
        Lower and upper bound in [0, 1], in the shape of ``successes``.

    Raises:
        ValueError: An argument is outside its range.
    """
    k = np.asarray(successes)
    if trials < 1 or (k < 0).any() or (k > trials).any():
        raise ValueError(f"{k.tolist()} must be counts from 0 to {trials} of at least one trial")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), not {confidence}")
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    # At k = 0 or k = trials the beta distribution is degenerate; there the bound is 0 or 1.
    low = betaincinv(np.maximum(k, 1), trials - k + 1, tail)
    high = betaincinv(k + 1, np.maximum(trials - k, 1), 1 - tail)
    return np.where(k == 0, 0.0, low), np.where(k == trials, 1.0, high)


def certified_radius(
    top: ArrayLike, other: ArrayLike, *, sigma: float, sensitivity: float, delta: float = DELTA
) -> Floats:
    """Largest l2 radius within which no perturbation changes the answer (PixelDP, proposition 1).

    Noise of standard deviation σ makes a first layer of sensitivity Δ (ε, δ)-differentially private for images at
    distance r, with ``ε = r Δ √(2 ln(1.25/δ)) / σ``; the theorem holds for ε ≤ 1. The answer is certified while

        p_top ≥ e^{2ε} p_other + (1 + e^ε) δ,

    which is ``p_other t² + δ t + δ - p_top ≤ 0`` in ``t = e^ε``: up to the equation's positive root.

    Args:
        top: Lower bound on the probability of the answer, in [0, 1].
        other: Upper bound on that of every other class, in [0, 1], same shape.
        sigma: Standard deviation of the noise; 0 certifies nothing.
        sensitivity: Bound on the l2 norm of the layer, from pixels to feature map; positive.
        delta: δ, in (0, 1).

    Returns:
        Radii in pixels of [0, 1], same shape; 0 where nothing is certified, at most the radius at ε = 1.
    """
    p, q = np.asarray(top, dtype=np.float64), np.asarray(other, dtype=np.float64)
    spare: Any = np.maximum(p - delta, 0)
    # The form of the root that does not divide by q, which may be 0.
    root = 2 * spare / (delta + np.sqrt(delta**2 + 4 * q * spare))
    epsilon = np.clip(np.log(np.maximum(root, 1)), 0, 1)
    return np.asarray(epsilon * (sigma / noise_level(1, 1, delta, sensitivity)))
