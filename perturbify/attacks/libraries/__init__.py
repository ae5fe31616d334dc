"""Attacks of other libraries, which are imported only when one crafts: ``pip install 'perturbify[attacks]'``."""

from importlib.util import find_spec

from perturbify.attacks.attack import Attack
from perturbify.attacks.libraries.autoattack import Apgd, Square
from perturbify.attacks.libraries.foolbox import CarliniWagner, HopSkipJump

__all__ = ["Apgd", "CarliniWagner", "HopSkipJump", "Square", "missing"]

_NEEDS = {Apgd: "pyautoattack", Square: "pyautoattack", CarliniWagner: "foolbox", HopSkipJump: "foolbox"}


def missing(attack: Attack) -> str | None:
    """The library that an attack needs and that is not installed; None where nothing is missing."""
    library = _NEEDS.get(type(attack))
    return library if library is not None and find_spec(library) is None else None
