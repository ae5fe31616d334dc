"""The inputs a network is run with."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from perturbify.errors import AlreadyWrapped, ModelError, SurgeryError
from perturbify.perturbation import perturbations
from perturbify.surgery.perturbed import Perturbed


class Example:
    """The inputs a network is run with.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
        names: Names of all of them, as forward calls them; empty where it takes ``*args`` or ``**kwargs``.
        variadic: Name of such an argument, with its asterisks; empty where there is none in use.
        device: Where the network is.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        names: tuple[str, ...],
        variadic: str,
        device: torch.device,
    ) -> None:
        self.args = args
        self.kwargs = dict(kwargs)
        self.names = names
        self.variadic = variadic
        self.device = device

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
        _refuse_kind(model)
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
        parameters = signature.parameters
        variadic = next((str(parameters[n]).split(":")[0] for n in names if parameters[n].kind in _VARIADIC), "")
        if variadic:
            args, kwargs, names = args, dict(kwargs), []
        else:
            # By position can be given what comes before the first argument that is fixed or keyword-only.
            order = [p.name for p in [*parameters.values()][1:] if p.kind is not inspect.Parameter.KEYWORD_ONLY]
            positional = [*(a == b for a, b in zip(names, order, strict=False)), False].index(False)
            args, kwargs = tuple(bound[n] for n in names[:positional]), {n: bound[n] for n in names[positional:]}
        example = cls(args, kwargs, tuple(names), variadic, device)
        values = (*args, *kwargs.values())
        if example.images == 1 and any(isinstance(v, list) or (isinstance(v, Tensor) and v.dim() > 3) for v in values):
            example.args, example.kwargs = example.call(extra=1)  # batch norm cannot train on one image
        return example

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each tensor for one image."""
        return tuple(tuple(v.shape[1:]) for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor))

    @property
    def images(self) -> int | None:
        """How many images it has; None where the inputs have no common batch dimension."""
        counts = {_images_in(v) for v in (*self.args, *self.kwargs.values())} - {None}
        return counts.pop() if len(counts) == 1 else None

    def call(self, *, extra: int = 0, meta: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs.

        Args:
            extra: How many more images there shall be: the first once more.
            meta: Whether they shall be without values, on the meta device.
        """
        args, kwargs = self.args, self.kwargs
        if extra:
            args, kwargs = tuple(_more(v, extra) for v in args), {n: _more(v, extra) for n, v in kwargs.items()}
        if meta:
            args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        return args, kwargs

    def batches(self) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The inputs, and where they have a batch dimension the same with one image more."""
        return [self.call(), *([self.call(extra=1)] if self.images else [])]


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _images_in(value: Any) -> int | None:
    """Length of a batch: of a tensor's first dimension, or of a list with an entry for each image."""
    if isinstance(value, Tensor):
        return value.shape[0] if value.dim() > 1 else None
    return len(value) if isinstance(value, list) and value else None


def _more(value: Any, extra: int) -> Any:
    """A batch with its first image ``extra`` more times at the end."""
    if _images_in(value) is None:
        return value
    return value + value[:1] * extra if isinstance(value, list) else torch.cat([value, *[value[:1]] * extra])


def _refuse_kind(model: nn.Module) -> None:
    """Refuses networks in forms whose code is out of reach.

    Raises:
        SurgeryError: It is scripted, compiled around a convolution, or called in a way of its own.
        ModelError: A buffer has no shape before the first forward.
    """
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise SurgeryError(f"This {name} is scripted.", "Wrap the module that it was scripted from.")
    kinds = {kind: _compiled(_methods(kind)) for kind in {type(m) for m in model.modules()}}
    for path, module in model.named_modules():
        # What Module.compile() left on the instance, no copy takes along.
        own = (v for k, v in vars(module).items() if k != "_compiled_call_impl")
        compiled = kinds[type(module)] or type(module).__name__ == "OptimizedModule" or _compiled(own)
        if compiled and any(isinstance(m, _ConvNd) for m in module.modules()):
            raise SurgeryError(
                f"{path or name} is compiled, and compiled code does not notice noise that comes later.",
                "Leave out torch.compile (a compiled module's _orig_mod is the plain one), and compile what wrap() "
                "returns.",
            )
    if type(model).__call__ is not nn.Module.__call__ and not isinstance(model, fx.GraphModule):
        raise SurgeryError(f"{name} has a __call__ of its own, which its wrapped form lacks.", "Do it in forward.")
    lazy = next((n for n, b in model.named_buffers() if is_lazy(b)), None)
    if lazy is not None:
        raise ModelError(f"{name} has no {lazy} before its first forward.", "Run it once on an input, then wrap it.")


def _methods(kind: type) -> Iterator[Any]:
    for base in set(kind.__mro__) - set(nn.Module.__mro__):
        yield from vars(base).values()


def _compiled(held: Iterable[Any]) -> bool:
    """Whether torch.compile made one of these functions."""
    made = (vars(v) for v in held if isinstance(v, FunctionType))
    return any("_torchdynamo_orig_callable" in v and "_torchdynamo_disable" not in v for v in made)


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
