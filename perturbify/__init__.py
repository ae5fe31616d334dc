"""Put learnable noise behind every convolution of a network you own, train it, and check it honestly.

After "Learn2Perturb: an End-to-end Feature Perturbation Learning to Improve Adversarial Robustness" (CVPR 2020).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbify.checkpoint import save as save
    from perturbify.checks import CheckPlan as CheckPlan
    from perturbify.checks import check as check
    from perturbify.checks import verify as verify
    from perturbify.errors import PerturbifyError as PerturbifyError
    from perturbify.methods.loading import load as load
    from perturbify.methods.prediction import predict as predict
    from perturbify.methods.wrapping import plan as plan
    from perturbify.methods.wrapping import wrap as wrap
    from perturbify.normalize import Normalize as Normalize
    from perturbify.perturbation import Perturbation as Perturbation
    from perturbify.perturbation import noise as noise
    from perturbify.perturbation import perturbations as perturbations
    from perturbify.prediction import Prediction as Prediction
    from perturbify.surgery.config import PerturbConfig as PerturbConfig
    from perturbify.surgery.graph import graph as graph
    from perturbify.surgery.graph import insert_noise as insert_noise
    from perturbify.surgery.wrap import unwrap as unwrap
    from perturbify.training import finetune as finetune
    from perturbify.training import resume as resume

__version__ = "0.1.0"

# Public names by the module that holds them: loaded on first use, so that the command line starts without torch.
_PUBLIC = {
    "CheckPlan": "perturbify.checks",
    "Normalize": "perturbify.normalize",
    "PerturbConfig": "perturbify.surgery.config",
    "Perturbation": "perturbify.perturbation",
    "PerturbifyError": "perturbify.errors",
    "check": "perturbify.checks",
    "finetune": "perturbify.training",
    "graph": "perturbify.surgery.graph",
    "insert_noise": "perturbify.surgery.graph",
    "load": "perturbify.methods.loading",
    "noise": "perturbify.perturbation",
    "perturbations": "perturbify.perturbation",
    "plan": "perturbify.methods.wrapping",
    "Prediction": "perturbify.prediction",
    "predict": "perturbify.methods.prediction",
    "resume": "perturbify.training",
    "save": "perturbify.checkpoint",
    "unwrap": "perturbify.surgery.wrap",
    "verify": "perturbify.checks",
    "wrap": "perturbify.methods.wrapping",
}

__all__ = ["__version__", *_PUBLIC]


_ROOMS = ("attacks", "certification", "checks", "data", "methods", "recipe", "zoo")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"perturbify.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'perturbify' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
