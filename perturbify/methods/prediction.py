"""The predictions of a network with noise, as its method makes them."""

from __future__ import annotations

from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perturbify.arguments import check_type, described
from perturbify.errors import SurgeryError
from perturbify.methods.registry import get
from perturbify.prediction import Ensemble, Prediction
from perturbify.surgery.noisy import Perturbed
from perturbify.text import times


def predict(model: nn.Module, images: Tensor, draws: int | None = None) -> Prediction:
    """Classifies images as the network's method does.

    RSE and Adv-BNN predict by the mean softmax of 50 draws, PixelDP by the votes of 50, the others by one draw. The
    network runs in eval mode, without gradients; its modes are restored afterwards.

    Args:
        model: What :func:`perturbify.wrap` or :func:`perturbify.load` returned.
        images: Shape (N, C, H, W), in [0, 1].
        draws: Number of draws; by default the method's.

    Raises:
        SurgeryError: ``model`` is not a perturbed network, or ``images`` are not a batch of images that it takes.
        ModelError: It gives no logits.
        ValueError: ``draws`` is less than 1.
        MethodError: Its method is not registered here.
    """
    if not isinstance(model, Perturbed):
        raise SurgeryError(f"{type(model).__name__} is not a wrapped network.", "Call perturbify.wrap(model) first.")
    _check_images(model, images)
    check_type(draws, (int, NoneType), "predict() takes a number of draws")
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return get(model.surgery.method).predict(model, images, draws)
    finally:
        for module, mode in modes:
            module.training = mode


def _check_images(model: Perturbed, images: Any) -> None:
    """Makes sure that images are a batch as the network takes one, as far as that can be seen without running it."""
    shapes = model.surgery.plan.input_shapes
    wanted = f"a tensor of {len(shapes[0]) + 1} dimensions" if len(shapes) == 1 else "a tensor"
    if not isinstance(images, Tensor):
        hint = "Give torch.from_numpy(images)." if isinstance(images, np.ndarray) else "Give images in one tensor."
        raise SurgeryError(f"The network takes a batch of images, {wanted}, not {described(images)}.", hint)
    if len(shapes) != 1:
        return
    shape = tuple(images.shape)
    if len(shape) != len(shapes[0]) + 1:
        raise SurgeryError(
            f"The network takes a batch of images, {wanted}, not {shape}.", "One image is a batch of one: image[None]."
        )
    if shape[1] != shapes[0][0]:
        last = shape[-1] == shapes[0][0]
        raise SurgeryError(
            f"The network takes images of {times(shapes[0])}, not {times(shape[1:])}.",
            "Channels come first: images.movedim(-1, 1)." if last else None,
        )
    if not images.is_floating_point():
        raise SurgeryError(
            f"The network takes pixels in [0, 1], not {str(images.dtype).removeprefix('torch.')}.",
            "Give images.float() / 255, where they are grey levels.",
        )
    if model.surgery.normalizes and images.numel() and not -0.1 <= images.min() <= images.max() <= 1.1:
        raise SurgeryError(
            f"The network takes pixels in [0, 1], and these are from {images.min():.3g} to {images.max():.3g}.",
            "It normalises by itself: give the pixels as they are, divided by 255 where they are grey levels.",
        )
    parameter = next(model.parameters(), images)
    if parameter.device != images.device:
        raise SurgeryError(
            f"The network is on {parameter.device}, and the images are on {images.device}.",
            f"Give images.to({str(parameter.device)!r}).",
        )


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
