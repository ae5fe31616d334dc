"""The moving average of a network during training."""

from __future__ import annotations

from torch import nn

from perturbify.surgery.noisy import Perturbed


class MovingAverage:
    """Exponential moving average of a network's weights, θ and buffers (Polyak averaging, by timm).

    Args:
        model: The network, from which the average starts.
        decay: Share of the past; in (0, 1).

    Attributes:
        network: The average, in eval mode, a perturbed network like the model.
    """

    def __init__(self, model: Perturbed, decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3  # here, as timm takes seconds to import

        self._average = ModelEmaV3(model, decay=decay)
        self.network: Perturbed = self._average.module

    def update(self, model: nn.Module) -> None:
        """Moves the average towards the network."""
        self._average.update(model)
