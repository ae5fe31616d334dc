"""The Gaussian mechanism of differential privacy: how much noise a guarantee needs."""

from __future__ import annotations

import math

DELTA = 0.05
"""Default δ of the guarantee (as in PixelDP's experiments)."""


def noise_level(bound: float, epsilon: float, delta: float, sensitivity: float) -> float:
    """Standard deviation of the Gaussian mechanism: ``σ = L Δ √(2 ln(1.25/δ)) / ε``; for ε ≤ 1.

    Dwork and Roth, "The Algorithmic Foundations of Differential Privacy" (2014), theorem A.1.

    Args:
        bound: L, the largest distance between two inputs.
        epsilon: ε of the guarantee, in (0, 1].
        delta: δ of the guarantee, in (0, 1).
        sensitivity: Δ, the largest ratio of the outputs' distance to the inputs'.
    """
    return bound * sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon
