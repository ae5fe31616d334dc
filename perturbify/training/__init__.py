"""Fine-tuning: warm-up of W, then W and θ jointly or alternating, against an adversary.

Names are loaded on first use: a run's folder is looked at without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturbify.training.launch import Result as Result
    from perturbify.training.launch import finetune as finetune
    from perturbify.training.launch import resume as resume

__all__ = ["Result", "finetune", "resume"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from perturbify.training import launch

    return getattr(launch, name)
