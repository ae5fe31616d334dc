"""RSE: random self-ensemble.

Liu, Cheng, Zhang, Hsieh: "Towards Robust Neural Networks via Random Self-ensemble" (ECCV 2018). Constants as
docs/constants.md collects them.
"""

from __future__ import annotations

from perturbify.methods.method import Method
from perturbify.methods.registry import register
from perturbify.surgery.config import PerturbConfig


@register
class Rse(Method):
    """``x + σ ε`` on the input of every convolution, σ 0.2 before the first and 0.1 before the others, fixed.

    Trained on clean images; the mean softmax of 50 draws predicts.
    """

    name = "rse"
    source = "Random Self-Ensemble, ECCV 2018"
    perturb = PerturbConfig(
        site="input", grain="layer", theta_init=0.1, theta_first=0.2, theta_min=None, learnable=False
    )
    sites = ("output", "norm", "addition")
    draws = 50
