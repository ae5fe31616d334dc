"""Noise on weights: which tensors, and which runs replace each by a noisy draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from perturbify.errors import SurgeryError
from perturbify.perturbation import Perturbation, child_name, site_name, spread
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.noisy import Proceed, Step, add_step
from perturbify.surgery.observe import Observation
from perturbify.surgery.plan import Site, Skipped, left_out, theta_shape
from perturbify.surgery.sites.counting import in_backward

_COMPUTED = "the weight is computed before each use"
_MULTIPLYING = (_ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention)


@dataclass(frozen=True)
class Weight:
    """The weights of convolutions and linear layers (``"weight"``), or all that a network has learned."""

    def find(
        self, network: nn.Module, seen: Mapping[str, Observation], config: PerturbConfig
    ) -> tuple[list[Site], list[Skipped], dict[str, float]]:
        """A site for each parameter, tied ones once, in the order of the modules.

        Raises:
            SurgeryError: A parameter does not know its shape before the first forward.
        """
        sites: dict[int, Site] = {}
        skipped: list[Skipped] = []
        for owner, module in network.named_modules(remove_duplicate=False):
            if config.site == "weight" and isinstance(module, _MULTIPLYING) and is_parametrized(module, "weight"):
                skipped.append(Skipped(site_name(owner, "weight"), type(module).__name__, _COMPUTED))
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if is_lazy(parameter):
                    raise SurgeryError(
                        f"{site_name(owner, name)} has no shape before the first forward.", "Run the network once."
                    )
                if id(parameter) in sites:
                    known = sites[id(parameter)]
                    if (owner, name) not in known.holders:
                        sites[id(parameter)] = known.held_by(owner, name)
                    continue
                reason = _reason_to_skip(owner, module, name, parameter, config)
                if reason is None:
                    continue
                if reason:
                    skipped.append(Skipped(site_name(owner, name), type(module).__name__, reason))
                    continue
                sites[id(parameter)] = Site(
                    name=site_name(owner, name),
                    owner=owner,
                    call=0,
                    kind=type(module).__name__,
                    map_shape=tuple(parameter.shape),
                    theta_shape=theta_shape(tuple(parameter.shape), config.grain),
                    way="weight",
                    why="drawn once per forward, for everyone who reads it",
                    parameter=name,
                    holders=((owner, name),),
                )
        found = list(sites.values())
        if config.extent == "first":
            skipped += [Skipped(s.name, s.kind, "not the first") for s in found[1:]]
            found = found[:1]
        return found, skipped, {s.name: _spread(network, s) for s in found}

    def insert(self, network: nn.Module, sites: list[Site], seen: Mapping[str, Observation]) -> None:
        """Every module that holds a noisy weight, or has one below, draws when it runs, unless an outer one has."""
        drawn = {network.get_submodule(path): None for site in sites for path, _ in site.holders}
        for path, module in list(network.named_modules()):
            names = {m: p for p, m in module.named_modules() if m in drawn}
            below = [s for s in sites if network.get_submodule(s.owner) in names]
            if not below or type(module).forward is nn.Module.forward or isinstance(module, nn.ModuleList):
                continue
            covered = tuple(
                Covered(
                    site.name,
                    names[network.get_submodule(site.owner)],
                    site.parameter,
                    tuple(
                        (names[holder], name)
                        for holder, name in ((network.get_submodule(p), n) for p, n in site.holders)
                        if holder in names
                    ),
                )
                for site in below
            )
            add_step(module, Drawing(covered, path))


@dataclass(frozen=True)
class Covered:
    """A noisy weight: its site's name, its owner's path and name there, and path and name of all who hold it."""

    site: str
    owner: str
    parameter: str
    holders: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Drawing(Step):
    """In a run of this module, each weight below with a site is replaced by a noisy draw; the parameters stay.

    One draw serves the whole run, however often the weight is used; draws of an outer run are kept.

    Attributes:
        weights: Those below this module.
        site: This module's path; empty for the network.
    """

    order = 2
    methods = True

    weights: tuple[Covered, ...]
    site: str = ""

    def around(
        self, module: nn.Module, name: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs the call with its draws.

        Raises:
            SurgeryError: Activation checkpointing would recompute without them, or recomputes this part.
        """
        drawn: list[tuple[nn.Module, str]] = []
        try:
            for weight in self.weights:
                owner = module.get_submodule(weight.owner)
                if weight.parameter in owner.__dict__:
                    continue  # an outer run has drawn it
                perturbation = owner._modules[child_name(weight.parameter)]
                assert isinstance(perturbation, Perturbation)
                if not perturbation.enabled:
                    continue
                if (self.site or name != "forward") and in_backward():
                    raise SurgeryError(f"In this network, {_CHECKPOINTS}.", _WAY_OUT)
                value = perturbation(owner._parameters[weight.parameter])
                for path, held in weight.holders:
                    holder = module.get_submodule(path)
                    # Found before the registered parameter, which keeps its name and place.
                    holder.__dict__[held] = value
                    drawn.append((holder, held))
            if len(drawn) == 0 or torch.compiler.is_compiling():
                return proceed(args, kwargs)
            with _refusing_checkpoints():
                return proceed(args, kwargs)
        finally:
            for holder, held in drawn:
                holder.__dict__.pop(held, None)  # a module may be registered under two names


_CHECKPOINTS = "activation checkpointing recomputes without the noise on the weights"
_WAY_OUT = 'Call the network itself, without activation checkpointing inside, or choose site="output".'


@contextmanager
def _refusing_checkpoints() -> Iterator[None]:
    """Inside, checkpointing that does not compute gradients by itself raises; torch.compile's handles the noise."""
    autograd = torch._C._autograd
    before = autograd._saved_tensors_hooks_get_disabled_error_message()
    try:
        autograd._saved_tensors_hooks_disable(_CHECKPOINTS, False)
        yield
    except RuntimeError as error:
        if _CHECKPOINTS not in str(error):
            raise
        raise SurgeryError(f"In this network, {_CHECKPOINTS}.", _WAY_OUT) from error
    finally:
        if before is None:
            autograd._saved_tensors_hooks_enable()
        else:
            autograd._saved_tensors_hooks_disable(before, False)


def _spread(network: nn.Module, site: Site) -> float:
    weight = network.get_submodule(site.owner)._parameters[site.parameter]
    assert weight is not None
    return float("nan") if weight.is_meta else spread(weight.float()).item()


def _reason_to_skip(
    owner: str, module: nn.Module, name: str, parameter: nn.Parameter, config: PerturbConfig
) -> str | None:
    """Why a parameter gets no noise; empty if it does, None if it is not a weight worth mentioning."""
    if not parameter.is_floating_point():
        return None
    if config.site == "weight":
        if not isinstance(module, _MULTIPLYING) or parameter.dim() < 2 or "bias" in name:
            return None
        if not name.endswith("weight"):
            return _COMPUTED
    if isinstance(module, (nn.RNNBase, torch.jit.ScriptModule)):
        return "its weights are read where noise cannot reach"
    return left_out(owner, config)
