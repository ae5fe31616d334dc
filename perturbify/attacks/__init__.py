"""Attacks on pixels in [0, 1]. The interface: :class:`Attack`; to register one by name: :func:`register`."""

from perturbify.attacks.attack import Attack, Crafted, Need, Norm, Passes, Role, needs_of, role_of
from perturbify.attacks.few_pixel import FewPixel
from perturbify.attacks.gradient import frozen_eval, input_gradient
from perturbify.attacks.libraries import Apgd, ApgdT, CarliniWagner, FabT, HopSkipJump, Square, StockAutoAttack
from perturbify.attacks.losses import cross_entropy, margin, mean_margin, targeted_margin
from perturbify.attacks.momentum import MarginPgd
from perturbify.attacks.projected import Pgd, fgsm, pgd
from perturbify.attacks.random_search import RandomSearch
from perturbify.attacks.realisations import Frozen, Randomness, randomness
from perturbify.attacks.registry import Entry, get, register, registered

__all__ = [
    "Apgd",
    "ApgdT",
    "Attack",
    "CarliniWagner",
    "Crafted",
    "Entry",
    "FabT",
    "FewPixel",
    "Frozen",
    "HopSkipJump",
    "MarginPgd",
    "Need",
    "Norm",
    "Passes",
    "Pgd",
    "RandomSearch",
    "Randomness",
    "Role",
    "Square",
    "StockAutoAttack",
    "cross_entropy",
    "fgsm",
    "frozen_eval",
    "get",
    "input_gradient",
    "margin",
    "mean_margin",
    "needs_of",
    "pgd",
    "randomness",
    "register",
    "registered",
    "role_of",
    "targeted_margin",
]
