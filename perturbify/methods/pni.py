"""PNI: parametric noise injection.

He, Rakin, Fan: "Parametric Noise Injection: Trainable Randomness to Improve Deep Neural Network Robustness Against
Adversarial Attack" (CVPR 2019). Constants as in docs/constants.md.
"""

from __future__ import annotations

from perturbify.methods.method import Method
from perturbify.methods.registry import register
from perturbify.surgery.config import PerturbConfig


@register
class Pni(Method):
    """``ŵ = w + α η`` on the weight of every convolution and linear layer, η ~ N(0, std(w)²), std and η detached.

    α is learned from the loss, by default one per layer, of either sign. ``site="output"`` is the paper's A-PNI:
    noise on each convolution's output, with standard deviation α std(x) over the whole batch.
    """

    name = "pni"
    source = "Parametric Noise Injection, CVPR 2019"
    perturb = PerturbConfig(site="weight", scale="relative", grain="layer", theta_init=0.25, theta_min=None)
    sites = ("output", "input", "norm", "addition")
    adversarial = True
