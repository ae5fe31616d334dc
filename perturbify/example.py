"""The inputs a network is run with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from perturbify.arguments import check_network
from perturbify.channels import channels
from perturbify.errors import ModelError, SurgeryError
from perturbify.text import times


@dataclass
class Example:
    """The inputs a network is run with.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
        device: Where the network is.
        names: Names of the positional inputs in forward; empty if it takes ``*args``.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device: torch.device
    names: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, model: nn.Module, given: Any) -> Example:
        """Takes the user's inputs, or random ones of the network's own input size.

        Args:
            model: The network.
            given: A tensor, a tuple of positional or a dict of keyword inputs; None: by the network's own input size.

        Raises:
            ModelError: There is no input, or it does not fit the network's forward.
            SurgeryError: The code of the network is out of reach.
        """
        check_network(model)
        _refuse_kind(model)
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        device = first.device if first is not None else torch.device("cpu")
        if given is None:
            given = _said_by(model, first)
        _refuse_no_tensors(given)
        if isinstance(given, Mapping):
            example = cls((), dict(given), device)
        else:
            example = cls(given if isinstance(given, tuple) else (given,), {}, device)
        signature = inspect.signature(model.forward)
        try:
            bound = signature.bind(*example.args, **example.kwargs).arguments
        except TypeError as error:
            raise ModelError(
                f"The example input does not fit {type(model).__name__}.forward{signature}: {error}."
            ) from None
        if not any(signature.parameters[n].kind is inspect.Parameter.VAR_POSITIONAL for n in bound):
            example.names = tuple(bound)[: len(example.args)]
        values = (*example.args, *example.kwargs.values())
        if example.images == 1 and any(isinstance(v, list) or (isinstance(v, Tensor) and v.dim() > 3) for v in values):
            example = example.with_more(1)  # batch norm cannot train on one image
        return example

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each tensor for one image."""
        return tuple(tuple(v.shape[1:]) for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor))

    @property
    def images(self) -> int | None:
        """The number of images; None if the inputs have no common batch dimension."""
        counts = {_images_in(v) for v in (*self.args, *self.kwargs.values())} - {None}
        return counts.pop() if len(counts) == 1 else None

    def with_more(self, extra: int) -> Example:
        """The same with so many more images: copies of the first."""
        args = tuple(_more(v, extra) for v in self.args)
        return Example(args, {n: _more(v, extra) for n, v in self.kwargs.items()}, self.device, self.names)

    def normalized(self, normalize: nn.Module | None) -> Example:
        """The same with its first input normalised, as a network with that layer inside sees it.

        Raises:
            ModelError: That input is not a tensor of images with as many channels.
        """
        if normalize is None:
            return self
        first = next(iter((*self.args, *self.kwargs.values())), None)
        if isinstance(first, Tensor) and first.is_meta:
            normalize = copy.deepcopy(normalize).to("meta")
        try:
            made = normalize(first)
        except (AttributeError, RuntimeError, TypeError) as error:
            shape = times(first.shape) if isinstance(first, Tensor) else f"a {type(first).__name__}"
            raise ModelError(f"The normalisation layer {normalize} does not take the first input, {shape}.") from error
        if self.args:
            return Example((made, *self.args[1:]), self.kwargs, self.device, self.names)
        return Example((), {**self.kwargs, next(iter(self.kwargs)): made}, self.device)

    def on_meta(self) -> Example:
        """The same without values, on the meta device."""
        args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), (self.args, self.kwargs))
        return Example(args, kwargs, self.device, self.names)

    def describe(self) -> dict[str, Any]:
        """The inputs as JSON values, by name; :func:`from_description` makes such inputs again.

        Raises:
            ValueError: One of them is neither a tensor, a number, a string, nor a list or dict of these.
        """
        if self.args and not self.names:
            return {"*": {"list": [_described(v, batched=True) for v in self.args]}}
        by_name = dict(zip(self.names, self.args, strict=True)) | self.kwargs
        return {name: _described(value, batched=True) for name, value in by_name.items()}


def from_description(description: Mapping[str, Any], dtype: torch.dtype, device: str = "cpu") -> Any:
    """Makes inputs of random pixels as :meth:`Example.describe` described them, two images each.

    Args:
        description: By name of the argument; ``"*"`` stands for all positional ones.
        dtype: Floating dtype of the network.
        device: The device; on ``"meta"`` the inputs take no memory.

    Raises:
        KeyError, TypeError, ValueError: It does not describe inputs.
    """
    generator = torch.Generator().manual_seed(0)
    made = {name: _made(about, dtype, device, generator) for name, about in description.items()}
    return tuple(made["*"]) if "*" in made else made


def _described(value: Any, *, batched: bool = False) -> dict[str, Any]:
    if isinstance(value, Tensor):
        kind = {} if value.is_floating_point() else {"dtype": str(value.dtype).removeprefix("torch.")}
        return {"shape": list(value.shape[1:]), **kind} if batched else {"whole": list(value.shape), **kind}
    if isinstance(value, (list, tuple)):
        return {"list": [_described(v) for v in value]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _described(v) for k, v in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise ValueError(f"a {type(value).__name__}")


def _made(about: Mapping[str, Any], dtype: torch.dtype, device: str, generator: torch.Generator) -> Any:
    if "list" in about:
        return [_made(v, dtype, device, generator) for v in about["list"]]
    if "dict" in about:
        return {k: _made(v, dtype, device, generator) for k, v in about["dict"].items()}
    if "value" in about:
        return about["value"]
    shape = about["whole"] if "whole" in about else (2, *about["shape"])
    kind = about.get("dtype")
    if device == "meta":
        return torch.empty(tuple(shape), dtype=dtype if kind is None else getattr(torch, kind), device=device)
    if kind is None:
        return torch.rand(tuple(shape), generator=generator).to(dtype)
    return torch.zeros(tuple(shape), dtype=getattr(torch, kind))  # indices into tables of unknown length


def _images_in(value: Any) -> int | None:
    """Length of a batch: of a tensor's first dimension, or of a list with an entry for each image."""
    if isinstance(value, Tensor):
        return value.shape[0] if value.dim() > 1 else None
    return len(value) if isinstance(value, list) and value else None


def _more(value: Any, extra: int) -> Any:
    """A batch with ``extra`` copies of its first image added at the end."""
    if _images_in(value) is None:
        return value
    return value + value[:1] * extra if isinstance(value, list) else torch.cat([value, *[value[:1]] * extra])


def _refuse_no_tensors(given: Any) -> None:
    """Makes sure that an example input is none of the two things that are given in a tensor's place."""
    if isinstance(given, tuple) and given and all(isinstance(n, int) for n in given):
        batch = given if len(given) == 4 else (2, *given)
        raise ModelError(
            f"example_input is a shape, {given}, where an input is needed.",
            f"Give torch.rand({', '.join(map(str, batch))}).",
        )
    if isinstance(given, np.ndarray):
        raise ModelError("example_input is a numpy array, not a tensor.", "Give torch.from_numpy(array).float().")


def _refuse_kind(model: nn.Module) -> None:
    """Refuses networks whose code is out of reach.

    Raises:
        SurgeryError: It is scripted, compiled around a convolution, or in inference mode.
        ModelError: A buffer has no shape before the first forward.
    """
    name = type(model).__name__
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in model.parameters() if not is_lazy(p)):
        raise SurgeryError(
            f"In torch.inference_mode() this {name} would get parameters that cannot be trained.",
            "Build and wrap it outside inference_mode; run it there.",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise SurgeryError(f"This {name} is scripted.", "Wrap the module that it was scripted from.")
    kinds = {kind: _compiled(_methods(kind)) for kind in {type(m) for m in model.modules()}}
    for path, module in model.named_modules():
        # Copies do not keep what Module.compile() left on the instance.
        own = (v for k, v in vars(module).items() if k != "_compiled_call_impl")
        compiled = kinds[type(module)] or type(module).__name__ == "OptimizedModule" or _compiled(own)
        if compiled and any(isinstance(m, _ConvNd) for m in module.modules()):
            raise SurgeryError(
                f"{path or name} is compiled, and compiled code would not see the noise.",
                "Wrap the plain module (a compiled one has it as _orig_mod), then compile what wrap() returns.",
            )
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


def _said_by(model: nn.Module, first: nn.Parameter | None) -> Any:
    """Images of the size that one of timm's or transformers' models declares."""
    config, size = getattr(model, "pretrained_cfg", None), None
    if isinstance(config, Mapping):
        size = config.get("input_size")
        if size is not None:  # which timm does not change with in_chans
            size = (channels(model) or size[0], *size[1:])
    theirs = getattr(model, "config", None)
    side = getattr(theirs, "image_size", None)
    if size is None and side is not None and getattr(model, "main_input_name", None) == "pixel_values":
        size = (getattr(theirs, "num_channels", 3), *(side if isinstance(side, (tuple, list)) else (side, side)))
    if size is None:
        raise ModelError(
            f"{type(model).__name__} does not say its input size.",
            "Pass example_input=torch.rand(2, 3, height, width) in the size you will use.",
        )
    images = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    images = images if first is None else images.to(first.device, first.dtype)
    return {"pixel_values": images} if theirs is not None and not isinstance(config, Mapping) else images
