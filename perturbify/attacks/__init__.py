"""Attacks on pixels in [0, 1]: one step, many steps, and many steps on the average over the noise."""

from perturbify.attacks.gradient import frozen_modes, input_gradient
from perturbify.attacks.linf import Linf, fgsm, pgd

__all__ = ["Linf", "fgsm", "frozen_modes", "input_gradient", "pgd"]
