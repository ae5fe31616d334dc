"""Queries a network: its answers, and the gradients that come with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.attacks import frozen_eval
from perturbify.attacks.losses import margin
from perturbify.generators import seeded


@dataclass(frozen=True)
class Asked:
    """A network's answers to a batch, draw by draw.

    Attributes:
        margins: Logit of the true class minus the greatest other one, draw by draw; shape (K, N). NaN counts as -inf.
        gradient: Mean gradient of the margins with respect to the images, shape of the images; None if not requested,
            zero if the network has none.
        entropy: The same for the cross-entropy of the first draw.
        exact: Whether the answers are in single precision or better.
        given: Whether autograd connects the images to the answers; True if not requested.
    """

    margins: Tensor
    gradient: Tensor | None = None
    entropy: Tensor | None = None
    given: bool = True
    exact: bool = True


def ask(
    model: nn.Module, x: Tensor, y: Tensor, seeds: Sequence[int], *, gradient: bool = False, size: int | None = None
) -> Asked:
    """Queries a network once for each seed; the same seeds draw the same noise, unless the network draws its own.

    Args:
        model: A classifier; its noise stays as it is set.
        x: Images, shape (N, C, H, W).
        y: True labels, shape (N,).
        seeds: One for each draw.
        gradient: Whether to compute gradients as well.
        size: Images in a forward; None takes all at once.
    """
    parts = list(zip(x.detach().split(size or len(x)), y.split(size or len(x)), strict=True))
    margins, total, entropy, given, exact = [], torch.zeros_like(x), torch.zeros_like(x), True, True
    with frozen_eval(model):
        for i, seed in enumerate(seeds):
            with seeded(seed, [x.device]):
                found = [_once(model, a, b, gradient=gradient, entropy=gradient and i == 0) for a, b in parts]
            margins.append(torch.cat([f.margins[0] for f in found]))
            exact = exact and all(f.exact for f in found)
            if gradient:
                total += torch.cat([_there(f.gradient, a) for f, (a, _) in zip(found, parts, strict=True)])
                given = given and all(f.given for f in found)
                if i == 0:
                    entropy = torch.cat([_there(f.entropy, a) for f, (a, _) in zip(found, parts, strict=True)])
    stacked = torch.stack(margins)
    return Asked(stacked, total / len(seeds), entropy, given, exact) if gradient else Asked(stacked, exact=exact)


def _once(model: nn.Module, x: Tensor, y: Tensor, *, gradient: bool, entropy: bool) -> Asked:
    images = x.clone().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        logits = model(images)
        found = -margin(logits, y)
    margins = found.detach().float().nan_to_num(nan=-torch.inf)[None]
    exact = not torch.equal(logits.bfloat16().float(), logits.float())  # also where they were cast afterwards
    if not gradient:
        return Asked(margins, exact=exact)
    if not logits.requires_grad:
        return Asked(margins, given=False, exact=exact)
    loss = F.cross_entropy(logits.float(), y, reduction="sum") if entropy else None
    along = torch.autograd.grad(found.sum(), images, allow_unused=True, retain_graph=entropy)[0]
    steepest = None if loss is None else torch.autograd.grad(loss, images, allow_unused=True)[0]
    return Asked(margins, along, steepest, along is not None, exact)


def _there(gradient: Tensor | None, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if gradient is None else gradient
