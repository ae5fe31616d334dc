"""Fine-tuning: warm-up of W, then W and θ jointly or alternating, against an adversary."""

from perturbify.training.launch import Result, finetune, resume

__all__ = ["Result", "finetune", "resume"]
