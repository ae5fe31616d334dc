"""The gradient an attack asks for: of the input alone, leaving the network as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.errors import ModelError


@contextmanager
def attacked(model: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode and freezes its parameters while it is attacked; all is as before afterwards.

    In eval mode batch-norm uses its running statistics and does not update them; the noise stays as it is. Frozen
    parameters spare the gradients that no attack on images asks for, and what autograd would keep for them.
    """
    modes = [(m, m.training) for m in model.modules()]
    learning = [p for p in model.parameters() if p.requires_grad]
    try:
        model.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in learning:
            parameter.requires_grad_(True)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, *, draws: int = 1, at_once: int = 1) -> Tensor:
    """Gradient of the cross-entropy with respect to the images, averaged over independent draws of the noise.

    Each draw is a forward of its own unless the caller says otherwise, so draws are independent whoever shares one:
    where the noise is shared by the whole batch, repeating the batch in one forward would repeat one draw and average
    nothing.

    Args:
        model: A classifier; only its input gradient is computed, no ``.grad`` is touched.
        x: Images, shape (N, C, H, W).
        y: Labels, shape (N,), int64.
        draws: Number of draws to average over (expectation over transformation); at least 1.
        at_once: Draws in one forward, as a batch of N times as many images: faster on a GPU. More than 1 only where
            every image of a batch has draws of its own.

    Returns:
        Shape of ``x``.

    Raises:
        ModelError: The network's output does not depend on the images in a way that autograd sees.
    """
    total: Tensor | None = None
    for first in range(0, draws, at_once):
        copies = min(at_once, draws - first)
        images = x.detach().repeat(copies, *[1] * (x.dim() - 1)) if copies > 1 else x.detach()
        images.requires_grad_(True)
        with torch.enable_grad():
            # Summed, so that an image's gradient does not depend on who else is in the batch.
            loss = F.cross_entropy(model(images), y.repeat(copies), reduction="sum")
            gradient = torch.autograd.grad(loss, images, allow_unused=True)[0] if loss.requires_grad else None
        if gradient is None:
            raise ModelError(
                f"{type(model).__name__} gives no gradient for its images, so no white-box attack can follow it.",
                "Rounding, no_grad() inside its forward, or inference_mode() around the attack take gradients away.",
            )
        if copies > 1:
            gradient = gradient.view(copies, *x.shape).sum(0)
        total = gradient if total is None else total + gradient
    assert total is not None
    return total / draws if draws > 1 else total
