"""Noise behind convolutions that torch.fx does not see: the same module, called by a forward hook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from perturbify.errors import SurgeryError
from perturbify.perturbation import CHILD, Perturbation, child_name, site_name


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
        # Of the present forward; None outside of one, where a submodule is called alone or checkpointing recomputes.
        self.calls: int | None = None

    def __call__(self, module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        """Perturbs the convolution's output.

        Raises:
            SurgeryError: There is no θ for this call, or it cannot be told which.
        """
        first = module._modules.get(CHILD)
        if first is None:
            raise SurgeryError(
                f"The convolution {self.owner} was not called when the network was wrapped, so it has no θ.",
                "Wrap with an example_input that reaches it, or leave it out with exclude=.",
            )
        number = self._number(module)
        noisy = module._modules.get(child_name(number))
        if noisy is not None:
            result: Tensor = noisy(output)
            return result
        if isinstance(first, Perturbation) and not first.enabled:
            return output
        raise SurgeryError(
            f"{site_name(self.owner, number)}: this convolution is called more often than when the network "
            "was wrapped, and there is no θ for this call.",
            'Where the number of calls depends on the input, wrap with shared="module": one θ for all calls.',
        )

    def _number(self, module: nn.Module) -> int:
        """Counts this call and says which it is, from 0."""
        if not self.numbered:
            return 0
        if self.calls is not None:
            self.calls += 1
            return self.calls - 1
        if child_name(1) in module._modules:
            raise SurgeryError(
                f"{self.owner} has a θ for each of its calls, and outside of the network's forward (a submodule called "
                "alone, activation checkpointing) it cannot be told which call this is.",
                'Wrap with shared="module".',
            )
        return 0


@contextmanager
def counting(network: nn.Module, owners: Iterable[str]) -> Iterator[None]:
    """Inside, a forward pass of the network runs, and its hooks count calls."""
    hooks = [h for owner in owners for h in _hooks_of(network.get_submodule(owner)).values()]
    try:
        for hook in hooks:
            hook.calls = 0
        yield
    finally:
        for hook in hooks:
            hook.calls = None


def add_hooks(network: nn.Module, owners: Iterable[str], *, numbered: bool) -> None:
    """Puts the hook on convolutions, named by their paths."""
    for owner in owners:
        network.get_submodule(owner).register_forward_hook(AddNoise(owner, numbered=numbered))


def remove_hooks(network: nn.Module, owners: Iterable[str]) -> None:
    """Takes the hooks off again."""
    for owner in owners:
        convolution = network.get_submodule(owner)
        for key in _hooks_of(convolution):
            del convolution._forward_hooks[key]


def _hooks_of(convolution: nn.Module) -> dict[int, AddNoise]:
    return {key: hook for key, hook in convolution._forward_hooks.items() if isinstance(hook, AddNoise)}
