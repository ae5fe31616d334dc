"""PNI: parametric noise injection.

He, Rakin, Fan: "Parametric Noise Injection: Trainable Randomness to Improve Deep Neural Network Robustness Against
Adversarial Attack" (CVPR 2019). Constants as docs/constants.md has them.
"""

from __future__ import annotations

from perturbify.methods.method import Method
from perturbify.methods.registry import register
from perturbify.surgery.config import PerturbConfig


@register
class Pni(Method):
    """``ŵ = w + α η`` on the weight of every convolution and linear layer, η ~ N(0, std(w)²), std and η detached.

    α is learned by the loss, one a layer by default, of either sign. With ``site="output"`` it is the paper's A-PNI:
    the noise is on what each convolution gives, of standard deviation α std(x) over the whole batch.
    """

    name = "pni"
    source = "Parametric Noise Injection, CVPR 2019"
    perturb = PerturbConfig(site="weight", scale="relative", grain="layer", theta_init=0.25, theta_min=None)
    sites = ("output", "input", "norm", "addition")
    adversarial = True
