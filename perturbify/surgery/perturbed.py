"""The network after surgery."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perturbify.errors import InputSizeError
from perturbify.normalize import Normalize
from perturbify.surgery.hooks import counting
from perturbify.surgery.plan import Plan
from perturbify.surgery.program import Program
from perturbify.text import times


@dataclass(frozen=True)
class Surgery:
    """What was done to a network, kept with it.

    Attributes:
        source_class: Class of the source network; its methods do not know of the noise.
        plan: The sites.
        inputs: Names of the arguments that stay inputs; the others were fixed to their defaults. Empty where forward
            takes ``*args`` or ``**kwargs``.
        positional: How many of them, from the first, can be given by position.
        programs: The network's forward in ``"train"`` and in ``"eval"`` mode; one object where the two agree. None,
            or no entry, where the source's own forward runs, with hooks on its convolutions.
        constants: Names of the tensors that tracing added to the network.
        normalizes: Whether a normalisation layer, ``normalize``, runs before the program.
    """

    source_class: type[nn.Module]
    plan: Plan
    inputs: tuple[str, ...]
    positional: int
    programs: Mapping[str, Program | None]
    constants: tuple[str, ...]
    normalizes: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Surgery:
        return self  # nothing in it changes

    @property
    def runs_source(self) -> bool:
        """Whether the source's own code runs in both modes, so that its methods see the noise."""
        return not any(self.programs.values())


class Perturbed(nn.Module):
    """A network with a noise module behind each of its convolution calls.

    It holds the source network's own modules, parameters and attributes under their own names, so every state-dict
    key survives unchanged; each θ is ``<path of the convolution>.perturb.theta``. ``forward`` runs the program that
    torch.fx wrote for the present mode, or the source's own code, with hooks, where there is none. Noise is on until
    :func:`perturbify.noise` turns it off.

    Made by :func:`perturbify.wrap`, not by hand.
    """

    normalize: Normalize
    surgery: Surgery

    @classmethod
    def adopt(cls, network: nn.Module, surgery: Surgery) -> Perturbed:
        """Makes a perturbed network of a source network's contents; the source must not be used afterwards."""
        self = cls.__new__(cls)
        self.__dict__ = network.__dict__
        self.__dict__["surgery"] = surgery
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the network, noise included.

        Args:
            *args: The inputs, as for the source network; images of shape (N, C, H, W), in [0, 1] where a
                normalisation layer is inside.
            **kwargs: The same by name.

        Raises:
            InputSizeError: θ is per element and the input has another size than at wrapping.
            TypeError: An argument that was fixed to its default at wrapping.
        """
        surgery = self.surgery
        program = surgery.programs.get("train" if self.training else "eval")
        if program is not None:
            args, kwargs = self._bind(args, kwargs), {}
        self._check_size((*args, *(kwargs[n] for n in surgery.inputs or kwargs if n in kwargs)))
        if surgery.normalizes:
            args, kwargs = self._normalized(args, kwargs)
        if not surgery.plan.hooked and program is not None:
            return program(self, *args)
        with counting(self, surgery.plan.hooked):
            if program is not None:
                return program(self, *args)
            return surgery.source_class.forward(self._as_source(), *args, **kwargs)

    def train(self, mode: bool = True) -> Perturbed:
        """Switches the mode as the source's own ``train`` does; the noise stays as it is."""
        self.surgery.source_class.train(self._as_source(), mode)
        return self

    def _as_source(self) -> nn.Module:
        """This network as one of the source's class: the same modules, parameters and attributes, not copies."""
        source = self.surgery.source_class.__new__(self.surgery.source_class)
        source.__dict__ = self.__dict__
        return source

    def _normalized(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The first input normalised, however it was given."""
        if args:
            return (self.normalize(args[0]), *args[1:]), kwargs
        first = next(iter(self.surgery.inputs or kwargs))
        return args, {**kwargs, first: self.normalize(kwargs[first])}

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        names, positional = self.surgery.inputs, self.surgery.positional
        if len(args) == len(names) == positional and not kwargs:
            return args
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        if len(args) > positional or set(given) != set(names) or len(given) != len(args) + len(kwargs):
            raise TypeError(
                f"This wrapped {self.surgery.source_class.__name__} takes the inputs ({', '.join(names)}); any other "
                "argument was fixed to its default. Pass an example_input with that argument to wrap() to keep it."
            )
        return tuple(given[n] for n in names)

    def _check_size(self, inputs: tuple[Any, ...]) -> None:
        plan = self.surgery.plan
        if plan.config is None or plan.config.grain != "element":
            return
        shapes = tuple(tuple(i.shape) for i in inputs if isinstance(i, Tensor))
        for shape, wanted in zip(shapes, plan.input_shapes, strict=False):
            if shape[1:] != wanted and shape != wanted:  # convolutions also take one image without a batch
                raise InputSizeError(
                    f"θ is per element and was made for inputs of {times(wanted)}, this one is {times(shape[1:])}.",
                    f'Resize to {times(wanted)}, wrap again for the new size, or wrap with grain="channel", '
                    "which takes any size.",
                )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            surgery = self.__dict__.get("surgery")
            if surgery is None or not hasattr(surgery.source_class, name):
                raise
            value = getattr(surgery.source_class, name)
            if not callable(value) and not hasattr(value, "__get__"):
                return value
            if surgery.runs_source:
                return self._source_method(name)
            raise AttributeError(
                f"{surgery.source_class.__name__}.{name} would run the source network without its noise, so the "
                f'wrapped one does not offer it. Wrap with backend="hook" to have it with the noise, or use '
                f"perturbify.unwrap(model).{name} to have it without."
            ) from None

    def _source_method(self, name: str) -> Any:
        value = getattr(self._as_source(), name)
        if not callable(value):
            return value

        @functools.wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:
            with counting(self, self.surgery.plan.hooked):
                return value(*args, **kwargs)

        return method

    def extra_repr(self) -> str:
        """Names the source network."""
        plan = self.surgery.plan
        return f"{self.surgery.source_class.__name__}, {len(plan.sites)} sites, {plan.parameters:,} entries of θ"
