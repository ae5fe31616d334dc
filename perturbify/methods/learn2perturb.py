"""Learn2Perturb, and its ablation Learn2Perturb-R.

"Learn2Perturb: an End-to-end Feature Perturbation Learning to Improve Adversarial Robustness" (CVPR 2020), section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from perturbify.errors import MethodError
from perturbify.methods.method import Method, NoisySite, Stage
from perturbify.methods.registry import register
from perturbify.methods.theta_way import REFERENCE_BATCH, harmonic, said
from perturbify.surgery.config import PerturbConfig

if TYPE_CHECKING:
    from torch import Tensor

    from perturbify.surgery.noisy import Perturbed


@register
class Learn2Perturb(Method):
    """Noise behind every convolution; θ learns from the loss and a regulariser that makes it grow."""

    name = "learn2perturb"
    source = "Learn2Perturb, CVPR 2020"
    perturb = PerturbConfig()
    sites = ("input", "norm", "addition")
    adversarial = True
    alternates = True
    gamma = 1e-4

    def check_config(self, config: PerturbConfig | None) -> None:
        """As for every method; and θ must have a floor, because the regulariser is √θ.

        Raises:
            MethodError: It is another method's noise, or has no floor.
        """
        super().check_config(config)
        if config is not None and config.theta_min is None:
            raise MethodError(f"The method {self.name} needs a floor for θ.", "Set theta_min, 0.01 for instance.")

    def remarks(self, network: Perturbed) -> tuple[str, ...]:
        """How far θ came: figures for noise that never learned say nothing about noise that did."""
        from perturbify.perturbation import perturbations

        thetas = [p.theta.detach().double() for _, p in perturbations(network)]
        config = network.surgery.plan.config
        start = None if config is None else config.theta_init
        mean = sum(float(t.sum()) for t in thetas) / sum(t.numel() for t in thetas)
        least, most = min(float(t.min()) for t in thetas), max(float(t.max()) for t in thetas)
        return (f"θ is {mean:.3f} on average, from {least:.3f} to {most:.3f}; its mean is {said(mean, start)}.",)

    def penalty(self, sites: Sequence[NoisySite], stage: Stage) -> Tensor | None:
        """``γ Σ g(θ)`` (Learn2Perturb, eq. 7)."""
        tau = harmonic(stage.k)
        return scaled_gamma(stage.gamma, stage.batch_size) * regularizer((s.theta for s in sites), tau)


@register
class Learn2PerturbR(Learn2Perturb):
    """The paper's ablation: θ follows the regulariser alone, so its schedule is deterministic."""

    name = "learn2perturb-r"
    theta_from_loss = False


def regularizer(thetas: Iterable[Tensor], tau: float) -> Tensor:
    """``Σ g(θ)`` with ``g(θ) = -√θ / τ``, over all elements of all θ (Learn2Perturb, eq. 7 and 8).

    Its gradient makes θ grow, ever more slowly, so the noise is not trained away.

    Args:
        thetas: The noise parameters; positive, at least one.
        tau: From :func:`perturbify.methods.theta_way.harmonic`.

    Returns:
        A scalar.
    """
    first, *rest = (theta.float().sqrt().sum() for theta in thetas)
    return -sum(rest, start=first) / tau


def scaled_gamma(gamma: float, batch_size: int) -> float:
    """γ for another batch size: it acts once a step, and an epoch has fewer steps when batches are larger."""
    return gamma * batch_size / REFERENCE_BATCH
