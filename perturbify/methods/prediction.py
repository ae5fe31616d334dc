"""The predictions of a network with noise, as its method makes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perturbify.errors import SurgeryError
from perturbify.methods.registry import get
from perturbify.prediction import Ensemble, Prediction
from perturbify.surgery.noisy import Perturbed


def predict(model: nn.Module, images: Tensor, draws: int | None = None) -> Prediction:
    """Classifies images as the network's method does.

    RSE and Adv-BNN predict by the mean softmax of 50 draws, PixelDP by the votes of 50, the others by one draw. The
    network runs in eval mode, without gradients; its modes are restored afterwards.

    Args:
        model: What :func:`perturbify.wrap` or :func:`perturbify.load` returned.
        images: Shape (N, C, H, W), in [0, 1].
        draws: Number of draws; by default the method's.

    Raises:
        SurgeryError: ``model`` is not a perturbed network, or ``images`` are not a batch of images, or are uint8.
        MethodError: Its method is not registered here.
    """
    if not isinstance(model, Perturbed):
        raise SurgeryError(f"{type(model).__name__} is not a wrapped network.", "Call perturbify.wrap(model) first.")
    shapes = model.surgery.plan.input_shapes
    if not isinstance(images, Tensor) or (len(shapes) == 1 and images.dim() != len(shapes[0]) + 1):
        given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise SurgeryError(
            f"The network takes a batch of images, a tensor of {len(shapes[0]) + 1} dimensions, not {given}.",
            "One image is a batch of one: image[None].",
        )
    if images.dtype == torch.uint8:
        raise SurgeryError(
            "The pixels are uint8, and the network takes floats in [0, 1].", "Give images.float() / 255."
        )
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return get(model.surgery.method).predict(model, images, draws)
    finally:
        for module, mode in modes:
            module.training = mode


def predictor(model: nn.Module) -> nn.Module:
    """The network as its method predicts: itself if one draw suffices, an :class:`Ensemble` if the method averages.

    It can be differentiated, so PixelDP's is an :class:`Ensemble` as well; votes have no gradient.

    Args:
        model: Any network; one that is not ours predicts by itself.
    """
    if not isinstance(model, Perturbed) or model.surgery.plan.config is None:
        return model
    draws = get(model.surgery.method).draws
    return model if draws == 1 else Ensemble(model, draws)
