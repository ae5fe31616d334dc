"""Models for the census: counted at their default input size, then built small, with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from perturbify import zoo
from perturbify.errors import ModelError
from perturbify.generators import reproducible
from perturbify.surgery.observe import ConvolutionCount
from perturbify.zoo.build import skeleton
from perturbify.zoo.inputs import example_input, takes
from perturbify.zoo.spec import tag

aten = torch.ops.aten

MODES = ("eval", "train")
SIDES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Sides of square images to try, smallest first."""

# Image sizes where the library states none: those of torchvision's own recipes.
_SIZES = {"detection": (3, 800, 800), "segmentation": (3, 520, 520), "optical_flow": (3, 520, 960)}


@dataclass(frozen=True)
class Specimen:
    """One model and how to build it.

    Attributes:
        name: Qualified name.
        arguments: Constructor arguments.
        size: Size of one image.
        calls: Convolution calls of one forward pass in mode ``"eval"`` and ``"train"``.
        parameters: Number of parameters.
    """

    name: str
    arguments: dict[str, Any]
    size: tuple[int, ...]
    calls: dict[str, int]
    parameters: int

    def build(self) -> nn.Module:
        """Builds it for real."""
        torch.manual_seed(0)
        with CheapInitialization():
            return zoo.build(zoo.ModelSpec(self.name, self.arguments, "fresh"))

    def inputs(self, model: nn.Module) -> tuple[Any, ...]:
        """Two images, and targets for a detector, which needs them in train mode."""
        inputs = example_input(model, self.size)
        return (*inputs, [_target(self.size) for _ in inputs[0]]) if takes(model) == "detection" else inputs


def at_default(name: str) -> Specimen:
    """The model with its library's defaults, and its calls at the library's input size."""
    model = _skeleton(name, {})
    size = _default_size(model)
    uncounted = Specimen(name, {}, size, {}, sum(p.numel() for p in model.parameters()))
    return replace(uncounted, calls=_count(model, uncounted, real_if_need_be=True))


def smaller(default: Specimen, *, arguments: Mapping[str, Any] | None = None) -> Iterator[Specimen]:
    """Yields the model with smaller inputs that lead to the same calls, smallest first; the default last.

    Args:
        default: From :func:`at_default`.
        arguments: Further constructor arguments.
    """
    arguments = dict(arguments or {})
    plain = _skeleton(default.name, arguments)
    for size in _smaller_sizes(plain, default.size):
        for extra in _ways_to_fit(default.name, size, detects=takes(plain) == "detection"):
            small = Specimen(default.name, {**arguments, **extra}, size, default.calls, default.parameters)
            try:
                model = _skeleton(small.name, small.arguments) if extra else plain
                counted = _count(model, small, real_if_need_be=takes(plain) == "detection")
            except Exception:  # each model rejects a size in its own way
                continue
            if arguments:
                yield replace(small, calls=counted)
            elif counted == default.calls:
                yield small
    yield replace(default, arguments=arguments)


def _smaller_sizes(model: nn.Module, size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if takes(model) == "detection":
        yield size[0], 96, 128
    elif takes(model) == "video":
        yield from ((size[0], frames, side, side) for frames in (8, 16) for side in SIDES if side < size[-1])
    else:
        yield from ((*size[:-2], side, side) for side in SIDES if side < size[-1])


def _skeleton(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    spec = zoo.ModelSpec(name, dict(arguments), "fresh")
    return tag(skeleton(spec), spec)


def _default_size(model: nn.Module) -> tuple[int, ...]:
    size = zoo.input_size(model) or _SIZES.get(takes(model))
    if size is None:
        raise ModelError(f"{type(model).__name__} does not say its input size.")
    return size


def _ways_to_fit(name: str, size: tuple[int, ...], *, detects: bool) -> Iterator[dict[str, Any]]:
    """Constructor arguments for another input size: usually none; some models are built for one size."""
    if detects:  # a detector accepts any image, but would enlarge it
        yield {"min_size": min(size[-2:]), "max_size": max(size[-2:])}
    yield {}
    if not detects:
        yield {"img_size" if name.startswith("timm:") else "image_size": size[-1]}


def _count(model: nn.Module, specimen: Specimen, *, real_if_need_be: bool) -> dict[str, int]:
    """Convolution calls of one forward pass in each mode, on the meta device if the model can run there."""
    on_meta = all(p.is_meta for p in model.parameters())
    try:
        return {mode: count(model, specimen.inputs(model), mode, meta=on_meta) for mode in MODES}
    except Exception:
        if not real_if_need_be:
            raise
        real = specimen.build()
        return {mode: count(real, specimen.inputs(real), mode) for mode in MODES}


def run(model: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any]) -> Any:
    """One forward pass, with positional or keyword inputs."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def count(model: nn.Module, inputs: tuple[Any, ...] | dict[str, Any], mode: str, *, meta: bool = False) -> int:
    """Convolution calls of one forward pass of a model, wherever they are made."""
    model.train(mode == "train")
    if meta:
        inputs = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), inputs)
    with reproducible(model), ConvolutionCount() as counter, torch.device("meta" if meta else "cpu"):
        run(model, inputs)
    return counter.total


def _target(size: tuple[int, ...]) -> dict[str, Tensor]:
    """One object in one image, as a training target for torchvision's detectors."""
    height, width = size[-2:]
    box = torch.tensor([[0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height]])
    keypoints = torch.tensor([0.5 * width, 0.5 * height, 1.0]).expand(1, 17, 3)
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = 1
    return {"boxes": box, "labels": torch.ones(1, dtype=torch.long), "masks": mask, "keypoints": keypoints}


class CheapInitialization(TorchDispatchMode):
    """Fills large tensors from a small pool of random numbers: drawing 10⁹ of them would take most of the time."""

    LARGE = 1 << 16

    def __init__(self) -> None:
        super().__init__()
        self._stock = torch.empty(self.LARGE).uniform_(-1, 1)

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        target = args[0] if args and isinstance(args[0], Tensor) else None
        if target is not None and target.numel() > self.LARGE and target.is_contiguous() and not target.is_meta:
            if func is aten.erfinv_.default:
                return target
            if func in (aten.uniform_.default, aten.normal_.default):
                first, second = (args[i] if len(args) > i else default for i, default in ((1, 0.0), (2, 1.0)))
                if func is aten.normal_.default:
                    return self._fill(target, second * 3**0.5, first)
                return self._fill(target, (second - first) / 2, (second + first) / 2)
        return func(*args, **(kwargs or {}))

    def _fill(self, target: Tensor, scale: float, shift: float) -> Tensor:
        stock = (self._stock * scale + shift).to(target.dtype)
        flat = target.view(-1)
        whole = flat.numel() // self.LARGE
        flat[: whole * self.LARGE].view(whole, self.LARGE).copy_(stock.expand(whole, -1))
        flat[whole * self.LARGE :].copy_(stock[: flat.numel() - whole * self.LARGE])
        return target
