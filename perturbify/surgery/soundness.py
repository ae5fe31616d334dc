"""Whether a network's weights are numbers at all, and such that noise means something beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from perturbify.errors import ModelError, SurgeryError
from perturbify.surgery.plan import Site

_STATISTICS = ("running_mean", "running_var")


def check_numbers(model: nn.Module) -> None:
    """Makes sure that no weight is NaN, and none that is trained infinite; whatever kind of numbers they are.

    With such a weight every answer is NaN, with noise and without, so that no comparison would find it. One pass.

    Raises:
        ModelError: One is.
    """
    statistics = ((name, t) for name, t in model.named_buffers() if name.rpartition(".")[2] in _STATISTICS)
    for name, tensor in (*model.named_parameters(), *statistics):
        if not _is_plain(tensor) or math.isfinite(abs(tensor.detach().sum())):  # a sum passes NaN and infinity on
            continue
        # Parameters that are not trained, and statistics, may be infinite on purpose: masks are.
        wrong = ~tensor.isfinite() if tensor.requires_grad else tensor.isnan()
        if count := int(wrong.sum()):
            raise ModelError(
                f"{type(model).__name__} has weights that are no numbers: {name} holds NaN or infinity in {count} of "
                f"{tensor.numel()}.",
                "Its training diverged, or its file is damaged; take weights from before that.",
            )


def check_real(model: nn.Module, sites: Iterable[Site]) -> None:
    """Makes sure that noise stands behind no convolution of complex numbers.

    torch computes one as three real convolutions, each of which would get a θ, two of them without effect.

    Raises:
        SurgeryError: It would.
    """
    for site in sites:
        owner = model.get_submodule(site.owner)
        if not site.parameter and any(p.is_complex() for p in owner.parameters(recurse=False)):
            raise SurgeryError(
                f"{site.owner or type(model).__name__} convolves complex numbers, where the noise is real.",
                f"Leave it out: exclude=({site.owner!r},).",
            )


def check_unpacked(model: nn.Module) -> None:
    """Makes sure that no convolution is quantised: torch has then packed it away, out of reach.

    Raises:
        SurgeryError: One is.
    """
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith("torch.ao.nn.") and "Conv" in kind.__name__ and hasattr(module, "_packed_params"):
            raise SurgeryError(
                f"{name or kind.__name__} is quantised, and noise cannot be put on a packed convolution.",
                "Wrap the network with its float weights.",
            )


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds values here that can be summed; others are not looked into."""
    return (
        type(tensor) in (Tensor, Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and (tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1))
    )
