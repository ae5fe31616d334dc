"""Attacks on pixels in [0, 1]. What each one is: :class:`Attack`."""

from perturbify.attacks.attack import Attack, Crafted, Norm, Passes
from perturbify.attacks.gradient import attacked, input_gradient
from perturbify.attacks.projected import Pgd, fgsm, pgd

__all__ = ["Attack", "Crafted", "Norm", "Passes", "Pgd", "attacked", "fgsm", "input_gradient", "pgd"]
