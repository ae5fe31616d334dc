"""Attacks on pixels in [0, 1]. What each one is: :class:`Attack`."""

from perturbify.attacks.attack import Attack, Crafted, Norm, Passes
from perturbify.attacks.few_pixel import FewPixel
from perturbify.attacks.gradient import attacked, input_gradient
from perturbify.attacks.projected import Pgd, fgsm, pgd
from perturbify.attacks.random_search import RandomSearch
from perturbify.attacks.realisations import Frozen, Randomness, randomness

__all__ = [
    "Attack",
    "Crafted",
    "FewPixel",
    "Frozen",
    "Norm",
    "Passes",
    "Pgd",
    "RandomSearch",
    "Randomness",
    "attacked",
    "fgsm",
    "input_gradient",
    "pgd",
    "randomness",
]
