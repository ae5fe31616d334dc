"""The spread of what is perturbed, which θ is to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.perturbation import Perturbation, noise, spread
from perturbify.surgery.noisy import Perturbed, noisy_sites


@torch.no_grad()
def spreads(network: Perturbed, *args: Any, **kwargs: Any) -> dict[str, float]:
    """Standard deviation, at every site, of what is perturbed there: over all images, channels and positions.

    The network runs once, in eval mode, with the noise off; its modes are restored afterwards.

    Args:
        network: A network with noise modules.
        *args: Its inputs; a batch of real images, as they arrive in practice.
        **kwargs: The same by name.

    Returns:
        By site name, in units of the feature maps or weights. If a site has several calls, the root of their mean
        variance; NaN for a site that is not called in eval mode.
    """
    sites = network.surgery.plan.sites
    found: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    modes = [(m, m.training) for m in network.modules()]
    hooks = []
    for site, (perturbation, weight) in zip(sites, noisy_sites(network), strict=True):
        if weight is not None:
            found[site.name].append(spread(weight.float()))
        else:
            hooks.append(perturbation.register_forward_pre_hook(_note(found[site.name])))
    try:
        if hooks:
            network.eval()
            with noise(network, enabled=False):
                network(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return {name: _root_mean(seen) for name, seen in found.items()}


def relative_noise(network: Perturbed, *args: Any, **kwargs: Any) -> dict[str, float]:
    """Standard deviation of the noise over that of what it is added to, at every site, for the same inputs.

    A network can outgrow its noise by scaling its weights up; θ by itself does not show that.

    Args and result as for :func:`spreads`, without unit; NaN where what is perturbed does not vary.
    """
    measured = spreads(network, *args, **kwargs)
    return {
        site.name: _deviation(network.get_submodule(site.path), measured[site.name])
        for site in network.surgery.plan.sites
    }


def _deviation(perturbation: nn.Module, deviation: float) -> float:
    assert isinstance(perturbation, Perturbation)
    theta = perturbation.theta.detach().float()
    if perturbation.scale == "relative":
        return theta.abs().mean().item()
    sigma = theta.exp() if perturbation.scale == "posterior" else theta
    return sigma.mean().item() / deviation if deviation > 0 else float("nan")


def _note(seen: list[Tensor]) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(spread(inputs[0].float()))

    return hook


def _root_mean(seen: list[Tensor]) -> float:
    return torch.stack(seen).square().mean().sqrt().item() if seen else float("nan")
