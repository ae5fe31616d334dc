"""The mathematics of Learn2Perturb's noise parameters (section 3.2 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

REFERENCE_BATCH = 128
"""Batch size for which the paper's γ is given."""


def harmonic(k: int) -> float:
    """The harmonic number τ = H_k = 1 + 1/2 + … + 1/k (Learn2Perturb, eq. 8).

    Args:
        k: 1 in the first epoch in which noise is active.
    """
    if k < 1:
        raise ValueError(f"τ is defined from the first noisy epoch, k = 1, on; not for k = {k}")
    return sum(1 / i for i in range(1, k + 1))


def regularizer(thetas: Iterable[Tensor], tau: float) -> Tensor:
    """``Σ g(θ)`` with ``g(θ) = -√θ / τ``, over all elements of all θ (Learn2Perturb, eq. 7 and 8).

    Its gradient makes θ grow, ever more slowly: it keeps the noise from being trained away.

    Args:
        thetas: The noise parameters; positive.
        tau: From :func:`harmonic`.

    Returns:
        A scalar.
    """
    return -torch.stack([theta.float().sqrt().sum() for theta in thetas]).sum() / tau


def scaled_gamma(gamma: float, batch_size: int) -> float:
    """γ for another batch size: it acts once a step, and an epoch has fewer steps when batches are larger."""
    return gamma * batch_size / REFERENCE_BATCH
