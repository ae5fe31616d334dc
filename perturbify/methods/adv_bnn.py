"""Adv-BNN: an adversarially trained Bayesian network.

Liu, Li, Wu, Hsieh: "Adv-BNN: Improved Adversarial Defense Through Robust Bayesian Neural Network" (ICLR 2019).
Constants as in docs/constants.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perturbify.methods.method import Method, NoisySite, Stage
from perturbify.methods.registry import register
from perturbify.surgery.config import PerturbConfig

if TYPE_CHECKING:
    from torch import Tensor

SIGMA_0 = 0.1
"""Standard deviation of every weight's prior, N(0, σ₀²), and initial one of its posterior."""


@register
class AdvBnn(Method):
    """Every weight, bias and affine parameter is ``μ + e^s ε``, with μ and s learned.

    The adversarial loss and a multiple of the KL divergence from the prior train both; the mean softmax of 50 draws
    predicts.
    """

    name = "adv-bnn"
    source = "Adv-BNN, ICLR 2019"
    perturb = PerturbConfig(site="parameter", scale="posterior", theta_init=math.log(SIGMA_0), theta_min=None)
    sites = ("weight",)
    adversarial = True
    gamma = 0.02
    penalizes_weights = True
    draws = 50

    def penalty(self, sites: Sequence[NoisySite], stage: Stage) -> Tensor | None:
        """``α/N Σ KL``, over all parameters of all layers, α = 0.02 and N training images."""
        first, *rest = (divergence(s.weight, s.theta) for s in sites if s.weight is not None)
        return stage.gamma / stage.images * sum(rest, start=first)


def divergence(mu: Tensor, s: Tensor) -> Tensor:
    """KL divergence of N(μ, e^{2s}) from the prior N(0, σ₀²), summed over all entries.

    ``ln σ₀ - s + (e^{2s} + μ²) / (2 σ₀²) - ½``

    Args:
        mu: Means.
        s: Logarithms of the standard deviations, in a shape that broadcasts to that of ``mu``.

    Returns:
        A scalar.
    """
    s, mu = s.float(), mu.float()
    kl = math.log(SIGMA_0) - s + ((2 * s).exp() + mu.square()) / (2 * SIGMA_0**2) - 0.5
    return kl.sum()
