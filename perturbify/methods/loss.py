"""The loss of a step: what is differentiated, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.attacks import frozen_eval
from perturbify.compiling import uncompiled
from perturbify.errors import MethodError

Adversary = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a network, images and labels to adversarial images, by the recipe's ``[attack]``; detached."""


@dataclass(frozen=True)
class Scored:
    """Loss and hits of a batch.

    Attributes:
        loss: Mean cross-entropy.
        hits: How many images are classified correctly.
    """

    loss: Tensor
    hits: Tensor


@dataclass(frozen=True)
class Loss:
    """The loss of a step.

    Attributes:
        total: A scalar, which is differentiated.
        clean: Loss and hits on clean images, for the metrics.
        adversarial: The same on adversarial images; None if there are none.
    """

    total: Tensor
    clean: Scored
    adversarial: Scored | None = None


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """A network's logits; the main ones if it returns auxiliary ones too in train mode (GoogLeNet, Inception)."""
    out = network(images)
    return out[0] if isinstance(out, tuple) else out


def score(logits: Tensor, y: Tensor) -> Scored:
    """Mean cross-entropy and hits of logits, shape (N, K), for labels, shape (N,)."""
    return Scored(F.cross_entropy(logits, y), (logits.argmax(1) == y).sum())


def look(network: nn.Module, x: Tensor, y: Tensor) -> Scored:
    """Scores images without learning from them, batch norm included."""
    network = uncompiled(network)  # which has no graph for this
    with frozen_eval(network), torch.no_grad():
        return score(logits(network, x), y)


def weighted(network: nn.Module, x: Tensor, y: Tensor, adversary: Adversary | None, weight: float) -> Loss:
    """``(1 - w) L(clean) + w L(adversarial)``, w being ½ in the paper (Learn2Perturb, section 4).

    Args:
        network: As for :meth:`perturbify.methods.Method.loss`, like the next three.
        x: Images.
        y: Labels.
        adversary: None: the loss is that of clean images.
        weight: w, in (0, 1]; with 1, clean images are not learned from.
    """
    if adversary is None:
        clean = score(logits(network, x), y)
        return Loss(clean.loss, clean)
    crafted = adversary(network, x, y)
    clean = score(logits(network, x), y) if weight < 1 else look(network, x, y)
    adversarial = score(logits(network, crafted), y)
    total = weight * adversarial.loss
    return Loss((1 - weight) * clean.loss + total if weight < 1 else total, clean, adversarial)


def checked(found: object, method: str) -> Loss:
    """Checks that the return value of a method, perhaps a user's, is a loss.

    Args:
        found: The returned value.
        method: The method's name, for the message.

    Raises:
        MethodError: Nothing can be learned from it.
    """
    if not isinstance(found, Loss):
        wrong = f"is a {type(found).__name__}"
    elif found.total.dim():
        wrong = f"has a total of shape {tuple(found.total.shape)}"
    elif not found.total.requires_grad:
        wrong = "has a total without a gradient"
    else:
        return found
    raise MethodError(
        f"The loss of the method {method} {wrong}.",
        "It must be a perturbify.methods.loss.Loss whose total is one number that depends on the network.",
    )
