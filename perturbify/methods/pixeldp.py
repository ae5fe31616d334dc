"""PixelDP: certified robustness by differential privacy.

Lecuyer, Atlidakis, Geambasu, Hsu, Jana: "Certified Robustness to Adversarial Examples with Differential Privacy" (IEEE
S&P 2019). Constants as in docs/constants.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbify.certification import DELTA, noise_level
from perturbify.methods.method import Method
from perturbify.methods.registry import register
from perturbify.surgery.config import PerturbConfig

if TYPE_CHECKING:
    from torch import Tensor

    from perturbify.prediction import Prediction
    from perturbify.surgery.noisy import Perturbed

BOUND, EPSILON, SENSITIVITY = 0.1, 1.0, 1.0
"""Construction attack bound L (l2, in pixels), ε of the guarantee (its δ is 0.05), and the first convolution's Δ."""


@register
class PixelDp(Method):
    """Gaussian noise behind the first convolution, whose weight is scaled so that its l2 sensitivity is at most Δ = 1.

    Trained on clean images; the votes of 50 draws predict, with a certified radius (docs/certify.md).
    """

    name = "pixeldp"
    source = "PixelDP, IEEE S&P 2019"
    perturb = PerturbConfig(
        grain="layer",
        theta_init=noise_level(BOUND, EPSILON, DELTA, SENSITIVITY),
        theta_min=None,
        learnable=False,
        extent="first",
    )
    draws = 50
    certifies = True

    def check(self, network: Perturbed) -> None:
        """Checks that the first convolution takes the image itself, and that nothing else does.

        Raises:
            MethodError: That is not so, or no bound on that convolution's sensitivity is known.
        """
        from perturbify.certification import verify

        verify(network)

    def project_(self, network: Perturbed) -> None:
        """Scales the first convolution's weight down until its sensitivity is at most Δ."""
        from perturbify.certification import find_mechanism

        find_mechanism(network).limit_(SENSITIVITY)

    def predict(self, network: Perturbed, images: Tensor, draws: int | None = None) -> Prediction:
        """Classifies images by the votes of several draws, with the certified l2 radius of each prediction."""
        from perturbify.certification import predict_certified

        return predict_certified(network, images, self.draws if draws is None else draws)
