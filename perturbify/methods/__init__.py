"""The defences, one file each: which noise, which loss, what is projected, how it predicts.

Nothing here imports torch before it computes, so recipes are read without it.
"""

from perturbify.methods import adv_bnn, learn2perturb, none, pixeldp, pni, rse, vanilla
from perturbify.methods.method import Method, NoisySite, Stage
from perturbify.methods.registry import DEFAULT, get, names, of_file, register

__all__ = [
    "DEFAULT",
    "Method",
    "NoisySite",
    "Stage",
    "adv_bnn",
    "get",
    "learn2perturb",
    "names",
    "none",
    "of_file",
    "pixeldp",
    "pni",
    "register",
    "rse",
    "vanilla",
]
