"""Noise behind convolutions that torch.fx does not see: the same module, called by a forward hook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from perturbify.errors import SurgeryError
from perturbify.perturbation import child_name, site_name


class AddNoise:
    """Forward hook of a convolution: calls the noise module of the convolution's present call.

    It holds no module, so it copies and pickles with the convolution.

    Args:
        owner: Dotted path of the convolution.
        numbered: Whether each call has a θ of its own, or one serves them all.
    """

    def __init__(self, owner: str, *, numbered: bool) -> None:
        self.owner = owner
        self.numbered = numbered
        self.calls = 0

    def __call__(self, module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        """Perturbs the convolution's output.

        Raises:
            SurgeryError: There is no θ for this call.
        """
        number = self.calls if self.numbered else 0
        self.calls += 1
        noisy = module._modules.get(child_name(number))
        if noisy is None:
            raise SurgeryError(
                f"{site_name(self.owner, number)}: this convolution is called more often than when the network was "
                "wrapped, and there is no θ for this call.",
                'Where the number of calls depends on the input, wrap with shared="module": one θ for all calls.',
            )
        result: Tensor = noisy(output)
        return result


def add_hooks(network: nn.Module, owners: Iterable[str], *, numbered: bool) -> None:
    """Puts the hook on convolutions, named by their paths."""
    for owner in owners:
        network.get_submodule(owner).register_forward_hook(AddNoise(owner, numbered=numbered))


def start_counting(network: nn.Module, owners: Iterable[str]) -> None:
    """Tells the hooks that a forward pass begins."""
    for owner in owners:
        for hook in network.get_submodule(owner)._forward_hooks.values():
            if isinstance(hook, AddNoise):
                hook.calls = 0


def remove_hooks(network: nn.Module, owners: Iterable[str]) -> None:
    """Takes the hooks off again."""
    for owner in owners:
        hooks = network.get_submodule(owner)._forward_hooks
        for key in [k for k, hook in hooks.items() if isinstance(hook, AddNoise)]:
            del hooks[key]
