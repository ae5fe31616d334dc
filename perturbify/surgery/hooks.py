"""Noise at modules that torch.fx does not see: the same noise module, called by a hook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from perturbify.errors import SurgeryError
from perturbify.perturbation import CHILD, Perturbation, child_name, site_name


class AddNoise:
    """Hook of a module that convolves or normalises: calls the noise module of its present call.

    It holds no module, so it copies and pickles with the one it hangs on.

    Args:
        owner: Dotted path of the module.
        before: Whether the module's input is perturbed, rather than its output.
        numbered: Whether each call has a θ of its own, or one serves them all.
        first: Whether the first call alone has noise.
    """

    def __init__(self, owner: str, *, before: bool, numbered: bool, first: bool) -> None:
        self.owner = owner
        self.before = before
        self.numbered = numbered or first
        self.first = first
        # Of the present forward; None outside of one, where a submodule is called alone or checkpointing recomputes.
        self.calls: int | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor | None = None) -> Any:
        """Perturbs the module's output, or its first input.

        Raises:
            SurgeryError: There is no θ for this call, or it cannot be told which.
        """
        if output is not None:
            return self._perturb(module, output)
        if inputs:
            return self._perturb(module, inputs[0]), *inputs[1:]
        if CHILD in module._modules:
            raise SurgeryError(f"{self.owner} was given its input by name, where noise cannot reach it.")
        return None  # as when the network was wrapped: the plan says that it is skipped

    def _perturb(self, module: nn.Module, x: Tensor) -> Tensor:
        first = module._modules.get(CHILD)
        if first is None:
            raise SurgeryError(
                f"{self.owner} was not called when the network was wrapped, so it has no θ.",
                "Wrap with an example_input that reaches it, or leave it out with exclude=.",
            )
        number = self._number(module)
        if self.first and number > 0:
            return x
        noisy = module._modules.get(child_name(number))
        if noisy is not None:
            result: Tensor = noisy(x)
            return result
        if isinstance(first, Perturbation) and not first.enabled:
            return x
        raise SurgeryError(
            f"{site_name(self.owner, number)}: this module is called more often than when the network "
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


def add_hooks(network: nn.Module, owners: Iterable[str], *, before: bool, numbered: bool, first: bool) -> None:
    """Puts the hook on modules, named by their paths; the settings are those of :class:`AddNoise`."""
    for owner in owners:
        module = network.get_submodule(owner)
        hook = AddNoise(owner, before=before, numbered=numbered, first=first)
        if before:
            module.register_forward_pre_hook(hook)
        else:
            module.register_forward_hook(hook)


def remove_hooks(network: nn.Module, owners: Iterable[str]) -> None:
    """Takes the hooks off again."""
    for owner in owners:
        module = network.get_submodule(owner)
        for key, hook in _hooks_of(module).items():
            del (module._forward_pre_hooks if hook.before else module._forward_hooks)[key]


def _hooks_of(module: nn.Module) -> dict[int, AddNoise]:
    hooks = (*module._forward_hooks.items(), *module._forward_pre_hooks.items())
    return {key: hook for key, hook in hooks if isinstance(hook, AddNoise)}
