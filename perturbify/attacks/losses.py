"""Losses that an attack maximises: functions of the logits, one number per image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits, shape (N, classes), and true labels, shape (N,), to losses, shape (N,): the larger, the more wrong."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each image; its gradient vanishes for a confident network."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the best wrong class minus that of the true one, in at least single precision; NaN counts as +∞.

    Positive where the image is misclassified. Unlike the cross-entropy, which underflows to zero for a confident
    network, it still distinguishes such images, and its gradient's direction does not depend on the scale of the
    logits.

    Args:
        logits: Shape (N, classes).
        y: True labels, shape (N,), int64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    wrong = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return _worst(wrong - logits.gather(1, y[:, None]).squeeze(1))


def targeted_margin(logits: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    """Logit of a chosen wrong class minus that of the true one; otherwise like :func:`margin`.

    Args:
        logits: Shape (N, classes).
        y: True labels, shape (N,), int64.
        targets: A wrong class for each image, shape (N,), int64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _worst((logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None])).squeeze(1))


@torch.no_grad()
def mean_margin(model: nn.Module, x: Tensor, y: Tensor, draws: int = 1) -> Tensor:
    """The :func:`margin`, averaged over draws of the noise, shape (N,); a single NaN makes it +∞.

    Args:
        model: A classifier.
        x: Images, shape (N, C, H, W).
        y: True labels, shape (N,), int64.
        draws: Forward passes to average.
    """
    total = margin(model(x), y)
    for _ in range(draws - 1):
        total = total + margin(model(x), y)
    return _worst(total) / draws


def likely_wrong(logits: Tensor, y: Tensor, number: int) -> Tensor:
    """The most likely wrong classes of each image, most likely first.

    Args:
        logits: Shape (N, classes).
        y: True labels, shape (N,), int64.
        number: How many to return; at most all wrong classes.

    Returns:
        Shape (N, min(number, classes - 1)), int64.
    """
    others = logits.float().nan_to_num().scatter(1, y[:, None], -math.inf)
    return others.topk(min(number, logits.shape[1] - 1)).indices


def _worst(margins: Tensor) -> Tensor:
    return torch.where(margins.isnan(), math.inf, margins)
