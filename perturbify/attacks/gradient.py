"""The input gradient that an attack needs, computed without changing the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perturbify.attacks.losses import Loss, cross_entropy
from perturbify.errors import ModelError


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode and freezes its parameters during an attack; everything is restored afterwards.

    In eval mode batch-norm uses its running statistics and does not update them; the noise stays as it is. Freezing the
    parameters saves gradients that no attack on images needs, and the memory autograd would keep for them.
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


class Followed(NamedTuple):
    """The results of one forward and backward pass, detached.

    Attributes:
        logits: Shape (N, classes).
        gradient: Gradient of each image's own loss, shape of the images.
    """

    logits: Tensor
    gradient: Tensor


def follow(model: nn.Module, images: Tensor, y: Tensor, loss: Loss = cross_entropy) -> Followed:
    """Runs one forward pass and computes the gradient of its loss with respect to the images.

    Args:
        model: A classifier; no ``.grad`` is touched.
        images: Shape (N, C, H, W).
        y: Labels, shape (N,), int64.
        loss: What to differentiate.

    Raises:
        ModelError: The network's output does not depend on the images in a way that autograd sees.
    """
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(images)
        # Summed, so that an image's gradient does not depend on the rest of the batch.
        total = loss(logits, y).sum()
        gradient = torch.autograd.grad(total, images, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ModelError(
            f"{type(model).__name__} has no gradient with respect to its images, so white-box attacks cannot run.",
            "Rounding, no_grad() inside its forward, or inference_mode() around the attack removes gradients.",
        )
    return Followed(logits.detach(), gradient)


def copies(x: Tensor, number: int) -> Tensor:
    """Repeats a batch, one copy after the other."""
    return x.repeat(number, *[1] * (x.dim() - 1)) if number > 1 else x


def parts(draws: int, at_once: int) -> Iterator[int]:
    """Splits ``draws`` into forward passes of at most ``at_once`` each."""
    for first in range(0, draws, at_once):
        yield min(at_once, draws - first)


def input_gradient(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    draws: int = 1,
    at_once: int = 1,
    loss: Loss = cross_entropy,
    finite: bool = False,
) -> Tensor:
    """Gradient of a loss with respect to the images, averaged over independent draws of the noise.

    Each draw is a forward pass of its own unless the caller says otherwise, so draws are always independent: if the
    noise is shared by the whole batch, repeating the batch in one pass would repeat one draw and average nothing.

    Args:
        model: A classifier; only its input gradient is computed, no ``.grad`` is touched.
        x: Images, shape (N, C, H, W).
        y: Labels, shape (N,), int64.
        draws: Number of draws to average over (expectation over transformation); at least 1.
        at_once: Draws per forward pass, as a batch that many times larger: faster on a GPU. More than 1 only if each
            image of a batch has draws of its own.
        loss: Loss of each image, from logits and labels.
        finite: Whether NaN counts as 0 in each draw, and infinity as the largest number, as an attack needs: one draw's
            NaN would make the whole average NaN.

    Returns:
        Shape of ``x``.

    Raises:
        ModelError: The network's output does not depend on the images in a way that autograd sees.
    """
    total: Tensor | None = None
    for number in parts(draws, at_once):
        gradient = follow(model, copies(x, number), copies(y, number), loss).gradient
        if finite:
            gradient = gradient.nan_to_num()
        if number > 1:
            gradient = gradient.view(number, *x.shape).sum(0)
        total = gradient if total is None else total + gradient
    assert total is not None
    return total / draws if draws > 1 else total
