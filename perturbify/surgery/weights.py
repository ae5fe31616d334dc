"""Noise on weights: which tensors, and a forward in which each stands in for the one it was drawn around."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from perturbify.errors import SurgeryError
from perturbify.perturbation import CHILD, Perturbation, child_name, site_name
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.plan import Site, Skipped, left_out, theta_shape

_COMPUTED = "the weight is computed before each use"
_MULTIPLYING = (_ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention)


def plan_weights(model: nn.Module, config: PerturbConfig) -> tuple[list[Site], list[Skipped]]:
    """Decides which parameters get noise.

    Args:
        model: The network.
        config: Settings whose site is ``"weight"`` or ``"parameter"``.

    Returns:
        A site for each parameter, tied ones once, in the order of the modules; and what is skipped, with the reason.

    Raises:
        SurgeryError: A parameter does not know its shape before the first forward.
    """
    sites: dict[int, Site] = {}
    skipped: list[Skipped] = []
    for owner, module in model.named_modules(remove_duplicate=False):
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
                site = sites[id(parameter)]
                if (owner, name) not in site.holders:
                    sites[id(parameter)] = site.held_by(owner, name)
                continue
            reason = _reason_to_skip(owner, module, name, parameter, config)
            if reason is None:
                continue
            if reason:
                skipped.append(Skipped(site_name(owner, name), type(module).__name__, reason))
                continue
            shape = tuple(parameter.shape)
            sites[id(parameter)] = Site(
                name=site_name(owner, name),
                owner=owner,
                call=0,
                kind=type(module).__name__,
                map_shape=shape,
                theta_shape=theta_shape(shape, config.grain),
                way="weight",
                parameter=name,
                holders=((owner, name),),
            )
    return list(sites.values()), skipped


def noisy_sites(network: nn.Module) -> list[tuple[Perturbation, nn.Parameter | None]]:
    """The noise modules of a perturbed network, each with the weight that its noise is on; None for a feature map."""
    found: list[tuple[Perturbation, nn.Parameter | None]] = []
    for path, module in network.named_modules():
        if isinstance(module, Perturbation):
            owner, _, child = path.rpartition(".")
            weight = child.removeprefix(f"{CHILD}_") if module.share == "forward" else ""
            found.append((module, network.get_submodule(owner)._parameters[weight] if weight else None))
    return found


@contextmanager
def noisy_weights(network: nn.Module, sites: Iterable[Site]) -> Iterator[None]:
    """Inside, each parameter with a site reads as a fresh draw around it; the parameters themselves stay.

    One draw serves the whole forward, however often the parameter is used.

    Args:
        network: The network after surgery.
        sites: Those on weights.

    Raises:
        SurgeryError: The network turns on activation checkpointing, which would compute again without the noise.
    """
    covered: list[tuple[nn.Module, str]] = []
    aside: list[tuple[nn.Module, list[str], nn.Module | None]] = []
    try:
        for site in sites:
            owner = network.get_submodule(site.owner)
            if site.parameter in vars(owner):
                continue  # a forward inside of this one
            child = child_name(site.parameter)
            perturbation = owner.get_submodule(child)
            if perturbation.enabled:
                drawn = perturbation(owner._parameters[site.parameter])
                for path, name in site.holders:
                    holder = network.get_submodule(path)
                    # Found before the registered parameter, which keeps its name and place.
                    vars(holder)[name] = drawn
                    covered.append((holder, name))
            # An nn.Sequential would run it as one of its layers.
            children = list(owner._modules)
            aside.append((owner, children[children.index(child) :], owner._modules.pop(child)))
        with _refusing_checkpoints(bool(covered)):
            yield
    finally:
        for holder, name in covered:
            vars(holder).pop(name, None)
        for owner, (child, *later), taken in reversed(aside):
            owner._modules[child] = taken
            for name in later:  # in the order they had
                owner._modules[name] = owner._modules.pop(name)


class RunsCovered:
    """Hook of a module that owns noisy weights: it refuses to run where they would read without the noise.

    That is outside of the network's forward: called by itself, or by activation checkpointing in a backward pass. It
    holds no module, so it copies and pickles with the one it hangs on.

    Args:
        site: Name of the weight's site.
        parameter: Name of the weight below the module.
    """

    def __init__(self, site: str, parameter: str) -> None:
        self.site = site
        self.parameter = parameter

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Looks whether the weight reads as drawn.

        Raises:
            SurgeryError: It does not, and its noise is on.
        """
        perturbation = module._modules.get(child_name(self.parameter))
        noisy = isinstance(perturbation, Perturbation) and perturbation.enabled
        if noisy and self.parameter not in vars(module):
            raise SurgeryError(f"{self.site} is used outside of the network's forward, without its noise.", _WAY_OUT)


def guard(network: nn.Module, sites: Iterable[Site]) -> None:
    """Puts the hook on the modules that own noisy weights, but not on the network itself, which draws the noise."""
    # Where there are hooks these leave their fast kernels, and round otherwise.
    fast = [m for m in network.modules() if isinstance(m, nn.TransformerEncoderLayer)]
    without = {network, *(m for layer in fast for m in layer.modules())}
    for site in sites:
        module = network.get_submodule(site.owner)
        if site.parameter and module not in without:
            module.register_forward_pre_hook(RunsCovered(site.name, site.parameter))


def unguard(network: nn.Module, sites: Iterable[Site]) -> None:
    """Takes the hooks off again."""
    for site in sites:
        hooks = network.get_submodule(site.owner)._forward_pre_hooks
        for key in [k for k, hook in hooks.items() if isinstance(hook, RunsCovered)]:
            del hooks[key]


_CHECKPOINTS = "activation checkpointing recomputes without the noise on the weights"
_WAY_OUT = 'Call the network itself, and without activation checkpointing inside; or choose site="output".'


@contextmanager
def _refusing_checkpoints(noisy: bool) -> Iterator[None]:
    """Inside, checkpointing that does not compute gradients by itself raises; torch.compile's knows the noise."""
    if not noisy or torch.compiler.is_compiling():
        yield
        return
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


def _reason_to_skip(
    owner: str, module: nn.Module, name: str, parameter: nn.Parameter, config: PerturbConfig
) -> str | None:
    """Why a parameter gets no noise; empty where it does, None where it is no weight that anybody would ask about."""
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
