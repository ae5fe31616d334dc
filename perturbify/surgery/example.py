"""The inputs a network is run with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.errors import AlreadyWrapped, ModelError
from perturbify.perturbation import perturbations
from perturbify.surgery.parity import Inputs
from perturbify.surgery.perturbed import Perturbed


class Example:
    """The inputs a network is run with: by name, as forward takes them."""

    def __init__(self, arguments: Mapping[str, Any], device: torch.device, parameters: Mapping[str, Any]) -> None:
        self.arguments = dict(arguments)
        self.device = device
        self._parameters = parameters

    @classmethod
    def of(cls, model: nn.Module, given: Any) -> Example:
        """Takes what the user gave, or the input size that the network says it has.

        Raises:
            AlreadyWrapped: The network has noise modules already.
            ModelError: There is no input, or it does not fit the network's forward.
        """
        if not isinstance(model, nn.Module):
            raise ModelError(f"A network must be a torch.nn.Module, not {type(model).__name__}.")
        if next(perturbations(model), None) is not None or isinstance(model, Perturbed):
            raise AlreadyWrapped(
                f"This {type(model).__name__} is wrapped already.", "Call perturbify.unwrap(model) first."
            )
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        device = first.device if first is not None else torch.device("cpu")
        if given is None:
            given = _from_pretrained_cfg(model, first)
        args, kwargs = (
            ((), given) if isinstance(given, Mapping) else (given if isinstance(given, tuple) else (given,), {})
        )
        signature = inspect.signature(type(model).forward)
        try:
            bound = signature.bind(model, *args, **kwargs).arguments
        except TypeError as error:
            raise ModelError(
                f"The example input does not fit {type(model).__name__}.forward{signature}: {error}."
            ) from None
        _, *names = bound
        for name in names:
            if signature.parameters[name].kind in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                raise ModelError(
                    f"{type(model).__name__}.forward takes its inputs as {name!r}, which torch.fx cannot follow.",
                    "Give forward named arguments.",
                )
        return cls({n: _two_images(bound[n]) for n in names}, device, signature.parameters)

    @property
    def positional(self) -> int:
        """How many inputs can be given by position: those before the first argument that is fixed or keyword-only."""
        _, *parameters = self._parameters.values()
        by_position = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        agree = [a == b for a, b in zip(self.arguments, by_position, strict=False)]
        return [*agree, False].index(False)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each tensor for one image."""
        return tuple(tuple(v.shape[1:]) for v in self.arguments.values() if isinstance(v, Tensor))

    def call(self, extra: int = 0) -> Inputs:
        """Positional and keyword inputs, with the first image repeated ``extra`` more times at the end."""
        values = {
            n: torch.cat([v, *[v[:1]] * extra]) if isinstance(v, Tensor) and extra else v
            for n, v in self.arguments.items()
        }
        names = list(values)
        positional, by_name = names[: self.positional], names[self.positional :]
        return tuple(values[n] for n in positional), {n: values[n] for n in by_name}

    def batches(self) -> tuple[Inputs, Inputs]:
        """The example input, and where it has a batch dimension the same with one image more."""
        tensors = [v for v in self.arguments.values() if isinstance(v, Tensor)]
        one_batch = tensors and all(t.dim() > 1 and t.shape[0] == tensors[0].shape[0] for t in tensors)
        as_given = self.call()
        return as_given, self.call(extra=1) if one_batch else as_given


def _two_images(value: Any) -> Any:
    """A batch of one image twice: batch norm cannot train on one."""
    one_image = isinstance(value, Tensor) and value.dim() > 3 and value.shape[0] == 1
    return torch.cat([value, value]) if one_image else value


def _from_pretrained_cfg(model: nn.Module, first: nn.Parameter | None) -> Tensor:
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if size is None:
        raise ModelError(
            f"{type(model).__name__} does not say its input size.",
            "Pass example_input=torch.rand(2, 3, height, width) in the size you will use.",
        )
    images = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    return images if first is None else images.to(first.device, first.dtype)
