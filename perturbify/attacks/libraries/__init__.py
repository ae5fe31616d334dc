"""Attacks from other libraries, which are imported only when an attack runs.

AutoAttack's are installed with perturbify; foolbox's need ``pip install 'perturbify[attacks]'``.
"""

from importlib.util import find_spec

from perturbify.attacks.attack import Attack, needs_of
from perturbify.attacks.libraries.apgd import Apgd, ApgdT
from perturbify.attacks.libraries.autoattack import StockAutoAttack
from perturbify.attacks.libraries.fab import FabT
from perturbify.attacks.libraries.foolbox import CarliniWagner, HopSkipJump
from perturbify.attacks.libraries.square import Square

__all__ = ["Apgd", "ApgdT", "CarliniWagner", "FabT", "HopSkipJump", "Square", "StockAutoAttack", "missing"]


def missing(attack: Attack) -> str | None:
    """The library that an attack needs and that is not installed; None if nothing is missing."""
    return "foolbox" if "foolbox" in needs_of(attack) and find_spec("foolbox") is None else None
