"""Certified robustness: which l2 perturbations of an image cannot change a network's answer.

Proofs only, for any network with noise of absolute scale behind its first convolution, whichever defence put it there.
Names are loaded on first use: recipes are read without torch, and a method's noise uses a formula from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbify.certification.bounds import certified_radius as certified_radius
    from perturbify.certification.bounds import clopper_pearson as clopper_pearson
    from perturbify.certification.certificate import Certificate as Certificate
    from perturbify.certification.certificate import Progress as Progress
    from perturbify.certification.certificate import certify as certify
    from perturbify.certification.certificate import certify_split as certify_split
    from perturbify.certification.certificate import predict_certified as predict_certified
    from perturbify.certification.gaussian import DELTA as DELTA
    from perturbify.certification.gaussian import noise_level as noise_level
    from perturbify.certification.mechanism import Mechanism as Mechanism
    from perturbify.certification.mechanism import find_mechanism as find_mechanism
    from perturbify.certification.mechanism import verify as verify
    from perturbify.certification.operator_norm import convolution_norm as convolution_norm

_FILES = {
    "DELTA": "gaussian",
    "Certificate": "certificate",
    "Mechanism": "mechanism",
    "Progress": "certificate",
    "certified_radius": "bounds",
    "certify": "certificate",
    "certify_split": "certificate",
    "clopper_pearson": "bounds",
    "convolution_norm": "operator_norm",
    "find_mechanism": "mechanism",
    "noise_level": "gaussian",
    "predict_certified": "certificate",
    "verify": "mechanism",
}

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
