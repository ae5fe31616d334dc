"""The network after surgery."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from perturbify.errors import InputSizeError, SurgeryError
from perturbify.normalize import Normalize
from perturbify.perturbation import perturbations
from perturbify.surgery.hooks import counting
from perturbify.surgery.plan import Plan
from perturbify.surgery.program import Program
from perturbify.surgery.sites import ConvolutionCount
from perturbify.surgery.weights import noisy_weights
from perturbify.text import counted, times

_READING = frozenset({"get_classifier", "group_matcher", "no_weight_decay", "no_weight_decay_keywords"})
"""Methods of timm's models that look at the network, and neither run nor change it."""

_CHANGING = ("convert_", "fix_", "freeze_", "fuse", "init_", "load_", "prune_", "reset_", "set_")
"""How names of methods begin that change a network; their error has another way out."""


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
        method: Name of the defence that the noise is for.
    """

    source_class: type[nn.Module]
    plan: Plan
    inputs: tuple[str, ...]
    positional: int
    programs: Mapping[str, Program | None]
    constants: tuple[str, ...]
    normalizes: bool = False
    method: str = "learn2perturb"

    def __post_init__(self) -> None:
        if issubclass(self.source_class, fx.GraphModule):
            # Each of those is of a class of its own, which holds its forward: it changes with the mode, and is no
            # global name to pickle.
            bases = (c for c in self.source_class.__mro__ if c.__qualname__.rpartition(".")[2] != "GraphModuleImpl")
            object.__setattr__(self, "source_class", next(bases))

    def __deepcopy__(self, memo: dict[int, Any]) -> Surgery:
        return self  # nothing in it changes

    def embody(self, contents: dict[str, Any]) -> nn.Module:
        """Makes a network of the source's class that holds a network's contents, not copies of them."""
        network = self.source_class.__new__(self.source_class)
        network.__dict__ = contents
        if isinstance(network, fx.GraphModule):
            network.recompile()  # its forward comes from its graph
        return network

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
        """Makes a perturbed network of a source network's contents; the source must not be used afterwards.

        Raises:
            SurgeryError: The network's forward was put on the instance; it would run in place of this one's.
        """
        if "forward" in vars(network):
            raise SurgeryError(
                f"The forward of this {surgery.source_class.__name__} was replaced on the instance, where noise cannot "
                "follow it.",
                "Define it in a subclass.",
            )
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
        with self._with_noise():
            if program is not None:
                return program(self, *args)
            return self._running_source().forward(*args, **kwargs)

    def train(self, mode: bool = True) -> Perturbed:
        """Switches the mode as the source's own ``train`` does; the noise stays as it is."""
        thetas = [(p.theta, p.theta.requires_grad) for _, p in perturbations(self)]
        self._as_source().train(mode)
        for theta, learns in thetas:  # a train() that freezes layers means the weights
            theta.requires_grad_(learns)
        return self

    def _as_source(self) -> nn.Module:
        """This network as one of the source's class: the same modules, parameters and attributes, not copies."""
        return self.surgery.embody(self.__dict__)

    def _running_source(self) -> nn.Module:
        """The same for a forward; an ``nn.Sequential`` runs all that it holds, and was made without a normalisation."""
        if not (self.surgery.normalizes and issubclass(self.surgery.source_class, nn.Sequential)):
            return self._as_source()
        modules = {name: module for name, module in self._modules.items() if module is not self.normalize}
        return self.surgery.embody({**self.__dict__, "_modules": modules})

    @contextmanager
    def _with_noise(self) -> Iterator[None]:
        """Inside, hooks count their calls, and weights read as drawn."""
        plan = self.surgery.plan
        if plan.config is not None and plan.config.on_weights:
            with noisy_weights(self, plan.sites):
                yield
        else:
            with counting(self, plan.hooked):
                yield

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
        if plan.config is None or not plan.config.fixes_size:
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
            if surgery is None or name.startswith("__") or not hasattr(surgery.source_class, name):
                raise
        static = inspect.getattr_static(surgery.source_class, name)
        if isinstance(static, (staticmethod, classmethod)) or not hasattr(static, "__get__"):
            return getattr(surgery.source_class, name)  # which knows of no network
        if callable(static):
            if surgery.runs_source:
                return self._source_method(name)
            if name in _READING:
                return getattr(self._as_source(), name)
            raise self._refusal(name)
        with self._with_noise(), ConvolutionCount() as count:
            value = getattr(self._as_source(), name)
        if count.total and not surgery.runs_source:
            raise self._refusal(name)
        return value

    def _refusal(self, name: str) -> AttributeError:
        method = f"{self.surgery.source_class.__name__}.{name}"
        if name.startswith(_CHANGING):
            return AttributeError(
                f"{method} would change the source network and not the graph that the wrapped one runs. Call it "
                'before perturbify.wrap, or wrap with backend="hook".'
            )
        return AttributeError(
            f"{method} would run the source network without its noise, so the wrapped one does not offer it. Wrap with "
            f'backend="hook" to have it with the noise, or use perturbify.unwrap(model).{name} to have it without.'
        )

    def _source_method(self, name: str) -> Any:
        run = getattr(self._as_source(), name)

        @functools.wraps(run)
        def method(*args: Any, **kwargs: Any) -> Any:
            with self._keeping_noise(name), self._with_noise():
                return run(*args, **kwargs)

        return method

    @contextmanager
    def _keeping_noise(self, name: str) -> Iterator[None]:
        """Inside, a method of the source runs; what it does to the modules is undone where it costs noise.

        Raises:
            SurgeryError: It took away or replaced a convolution with noise, or put in a new one, without noise.
        """
        held = [(m, dict(vars(m)), {n: dict(vars(m)[n]) for n in _REGISTRIES}) for m in self.modules()]
        before = _convolutions(self)
        yield
        after = _convolutions(self)
        changed = [p for p in {**before, **after} if before.get(p) is not after.get(p)]
        wrong = [p for p in changed if p in self.surgery.plan.hooked or p not in before]
        if not wrong or self.surgery.plan.config is None:
            return
        for module, attributes, registries in held:
            vars(module).clear()
            vars(module).update(attributes)
            for registry, entries in registries.items():
                attributes[registry].clear()
                attributes[registry].update(entries)
        raise SurgeryError(
            f"{self.surgery.source_class.__name__}.{name} would "
            f"{'replace or remove a convolution with' if wrong[0] in before else 'add a convolution without'} noise, "
            f"{wrong[0]}; the network is as it was.",
            "Call it before perturbify.wrap.",
        )

    def extra_repr(self) -> str:
        """Names the source network."""
        plan = self.surgery.plan
        said = f"{counted(len(plan.sites), 'site')}, {counted(plan.parameters, 'entry')} of θ"
        return f"{self.surgery.source_class.__name__}, {said}"


_REGISTRIES = ("_parameters", "_buffers", "_modules")


def _convolutions(network: nn.Module) -> dict[str, nn.Module]:
    return {path: m for path, m in network.named_modules() if isinstance(m, _ConvNd)}
