"""The tables of the Learn2Perturb paper reproduced: trained, checked, and printed beside the paper's figures.

Names are loaded on first use: the paper's figures are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbify.reproduction.job import Job as Job
    from perturbify.reproduction.job import Reproduction as Reproduction
    from perturbify.reproduction.job import jobs as jobs
    from perturbify.reproduction.run import Outcome as Outcome
    from perturbify.reproduction.run import Watcher as Watcher
    from perturbify.reproduction.run import reproduce as reproduce

_FILES = {"Job": "job", "Outcome": "run", "Reproduction": "job", "Watcher": "run", "jobs": "job", "reproduce": "run"}

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
