"""Whether a network's weights are finite, and of a kind that real noise can be added to."""

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
    """Checks that no weight is NaN and no trained weight infinite, in any number format.

    With such a weight every output is NaN, with noise and without, so no comparison would find it. One pass.

    Raises:
        ModelError: A weight is.
    """
    statistics = ((name, t) for name, t in model.named_buffers() if name.rpartition(".")[2] in _STATISTICS)
    for name, tensor in (*model.named_parameters(), *statistics):
        if not _is_plain(tensor) or math.isfinite(abs(tensor.detach().sum())):  # a sum propagates NaN and infinity
            continue
        # Parameters that are not trained, and statistics, may be infinite on purpose: masks are.
        wrong = ~tensor.isfinite() if tensor.requires_grad else tensor.isnan()
        if count := int(wrong.sum()):
            raise ModelError(
                f"{type(model).__name__} has weights that are not finite: {name} holds NaN or infinity in {count} of "
                f"{tensor.numel()} entries.",
                "Its training diverged, or its file is damaged; use earlier weights.",
            )


def check_real(model: nn.Module, sites: Iterable[Site]) -> None:
    """Checks that no noise is behind a convolution of complex numbers.

    torch computes one as three real convolutions, each of which would get a θ, two of them without effect.

    Raises:
        SurgeryError: There would be.
    """
    for site in sites:
        owner = model.get_submodule(site.owner)
        if not site.parameter and any(p.is_complex() for p in owner.parameters(recurse=False)):
            raise SurgeryError(
                f"{site.owner or type(model).__name__} convolves complex numbers, but the noise is real.",
                f"Leave it out: exclude=({site.owner!r},).",
            )


def check_unpacked(model: nn.Module) -> None:
    """Checks that no convolution is quantised: torch has packed its weights out of reach.

    Raises:
        SurgeryError: One is.
    """
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith("torch.ao.nn.") and "Conv" in kind.__name__ and hasattr(module, "_packed_params"):
            raise SurgeryError(
                f"{name or kind.__name__} is quantised, and noise cannot be added to a packed convolution.",
                "Wrap the network with its float weights.",
            )


def _is_plain(tensor: Tensor) -> bool:
    """Whether its values are here and can be summed; others are not examined."""
    return (
        type(tensor) in (Tensor, Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and (tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1))
    )
