"""The index of a module's current call in the current run: each call has its own θ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.errors import SurgeryError
from perturbify.perturbation import Perturbation, child_name, site_name
from perturbify.surgery.noisy import CALLS, Proceed, Step, add_step


def noise_of(module: nn.Module, number: int, site: str) -> Callable[[Tensor], Tensor]:
    """The noise module of a call.

    Raises:
        SurgeryError: There is none.
    """
    noise = module._modules.get(child_name(number))
    if noise is not None:
        return noise
    first = next((m for m in module._modules.values() if isinstance(m, Perturbation)), None)
    if first is not None and not first.enabled:
        return _as_it_is
    raise SurgeryError(
        f"{site_name(site, number)}: this module is called more often than when the network was wrapped, and there is "
        "no θ for this call.",
        'Where the number of calls depends on the input, wrap with theta_per="module": one θ for all calls.',
    )


def _as_it_is(x: Tensor) -> Tensor:
    return x


def start_of(module: nn.Module, site: str) -> int:
    """The index of a module's current call in the current run, from 0; outside any run it is the first.

    Raises:
        SurgeryError: It runs by itself in a backward pass, where activation checkpointing recomputes a part.
    """
    number: int | None = module._perturb_calls  # type: ignore[assignment]
    if number is None:
        _refuse_recomputing(site)
        return 0
    return number


def count_on(module: nn.Module, number: int) -> None:
    """Records, inside a run that counts, which call comes next."""
    if module._perturb_calls is not None:
        setattr(module, CALLS, number)


def in_backward() -> bool:
    """Whether autograd runs this, as where activation checkpointing recomputes a part."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _refuse_recomputing(site: str) -> None:
    if in_backward():
        raise SurgeryError(
            f"{site or 'The network'} has a θ for each of its calls, and where activation checkpointing recomputes a "
            "part, the current call is unknown.",
            'Wrap with theta_per="module".',
        )


@dataclass(frozen=True)
class Counting(Step):
    """Counts calls of the modules below from the start of this module's run, unless an outer run counts them.

    Attributes:
        owners: Paths, from this module, of modules that are called several times.
        site: This module's path; empty for the network.
    """

    order = 1
    methods = True

    owners: tuple[str, ...]
    site: str = ""

    def around(
        self, module: nn.Module, name: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs the call with counters from 0."""
        counted = [module.get_submodule(path) for path in self.owners]
        counted = [m for m in counted if m._perturb_calls is None]
        if counted and (self.site or name != "forward"):
            _refuse_recomputing(self.site)
        try:
            for owner in counted:
                setattr(owner, CALLS, 0)
            return proceed(args, kwargs)
        finally:
            for owner in counted:
                setattr(owner, CALLS, None)


def count_calls(network: nn.Module, owners: list[nn.Module]) -> None:
    """Makes every module around those called several times count their calls from the start of its own run."""
    if not owners:
        return
    for path, module in list(network.named_modules()):
        below = [p for p, m in module.named_modules() if p and any(m is owner for owner in owners)]
        if below and type(module).forward is not nn.Module.forward and not isinstance(module, nn.ModuleList):
            add_step(module, Counting(tuple(below), path))
