"""Fine-tuning: warm-up of W, then W and θ together or in turns, against an adversary."""

from perturbify.training.launch import Result, finetune, resume

__all__ = ["Result", "finetune", "resume"]
