"""RSE: random self-ensemble.

Liu, Cheng, Zhang, Hsieh: "Towards Robust Neural Networks via Random Self-ensemble" (ECCV 2018). Constants as in
docs/constants.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbify.methods.method import Method
from perturbify.methods.registry import register
from perturbify.surgery.config import PerturbConfig

if TYPE_CHECKING:
    from perturbify.normalize import Normalize
    from perturbify.surgery.noisy import Perturbed


@register
class Rse(Method):
    """``x + σ ε`` on the input of every convolution, σ 0.2 before the first and 0.1 before the others, fixed.

    Trained on clean images; the mean softmax of 50 draws predicts. RSE's own networks take pixels in [0, 1] without
    normalisation: 0.2 is in pixels, and behind a normalisation layer it is divided by that layer's std, per channel.
    """

    name = "rse"
    source = "Random Self-Ensemble, ECCV 2018"
    perturb = PerturbConfig(
        site="input", grain="channel", theta_init=0.1, theta_first=0.2, theta_min=None, learnable=False
    )
    sites = ("output", "norm", "addition")
    draws = 50

    def start_(self, network: Perturbed, normalize: Normalize | None) -> None:
        """Converts the σ of the first site, if that is the image, from pixels to normalised values."""
        from perturbify.surgery.noisy import noisy_sites

        config = network.surgery.plan.config
        if normalize is None or config is None or config.site != "input" or config.theta_first is None:
            return
        (first, _), *_ = noisy_sites(network)
        if len(first.theta) in (1, normalize.std.numel()):
            std = normalize.std.flatten().to(first.theta)
            first.theta.data.div_(std.mean() if len(first.theta) == 1 else std.view(-1, 1, 1))
