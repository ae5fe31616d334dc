"""Which calls count: watch a real forward pass and write down every convolution it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from perturbify.errors import ModelError, TraceError
from perturbify.text import first_line

aten = torch.ops.aten

CONV_FUNCTIONS: dict[Callable[..., Any], int] = {
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
    torch.conv_transpose1d: 1,
    torch.conv_transpose2d: 2,
    torch.conv_transpose3d: 3,
}
"""The functional convolutions and their number of spatial dimensions; ``F.conv2d`` is ``torch.conv2d``."""

CONVOLUTIONS = frozenset(
    (
        aten.convolution.default,
        aten._convolution.default,  # of what torch.jit.trace recorded
        aten._convolution.deprecated,
        aten.convolution_overrideable.default,
        aten.mkldnn_convolution.default,
        aten.slow_conv_dilated2d.default,
        aten.slow_conv_dilated3d.default,
        aten._slow_conv2d_forward.default,
        aten.conv_tbc.default,
    )
)
"""The convolutions below autograd, whoever calls them."""


@dataclass(frozen=True)
class Call:
    """One convolution call of a forward pass.

    Attributes:
        owner: Dotted path of the convolution module, or of the module whose forward calls ``F.conv*``.
        kind: Class of the convolution module, or name of the function.
        shape: Shape of the output for one image: (C, H, W) for a 2-d convolution.
        leading: Size of the output's first dimension, mostly the number of images; None where there is only one
            image, without that dimension.
        functional: Whether it is a call of ``F.conv*``.
        fixed: Whether it is one whose filter is a buffer, such as a blur's.
        batch_in_channels: Whether the images' channels stand side by side, as in one image (CondConv does so, to
            convolve each image with a filter of its own); ``shape`` is that of one of them.
        input_shape: Shape of the input for one image.
        norm: The call of the normalisation that took this call's output; None where there was none.
    """

    owner: str
    kind: str
    shape: tuple[int, ...]
    leading: int | None
    functional: bool = False
    fixed: bool = False
    batch_in_channels: bool = False
    input_shape: tuple[int, ...] = ()
    norm: Call | None = None


@dataclass(frozen=True)
class Observation:
    """What one forward pass did.

    Attributes:
        calls: Its convolution calls, in order.
        writes_parameters: Whether it changed a parameter (clipped weights, for instance, or initialised lazily).
    """

    calls: tuple[Call, ...]
    writes_parameters: bool


def observe(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Observation:
    """Runs one forward pass and records every convolution call, whoever makes it.

    Each call of a ``_ConvNd`` (subclasses included) is one call, whatever happens inside it; ``F.conv*`` calls
    outside of one are credited to the module whose forward is running.

    Args:
        model: Any network; its buffers may change as in any forward pass, so hand in a copy.
        args: Positional inputs.
        kwargs: Keyword inputs.

    Raises:
        ModelError: The network itself fails on these inputs.
        TraceError: It makes convolution calls that are neither of a ``_ConvNd`` nor of ``F.conv*``.
    """
    watch = _Watch(model)
    below = _Below(watch, model)
    try:
        with watch, below, torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        mode = "train" if model.training else "eval"
        raise ModelError(
            f"{type(model).__name__} itself fails on the example input in {mode} mode: {first_line(error)}.",
            "Pass an example_input that the network takes in both modes.",
        ) from error
    if watch.unregistered is not None:
        owner, kind = watch.unregistered
        raise TraceError(
            f"{owner or type(model).__name__} calls a {kind} that is not registered as its submodule.",
            "Keep it in an nn.ModuleList or nn.ModuleDict rather than a list or dict.",
        )
    if watch.unaccounted:
        raise TraceError(
            f"{watch.unaccounted[0] or type(model).__name__} convolves by neither an nn.Conv module nor F.conv*, so "
            "noise cannot be put behind it.",
            "A scripted module, for instance, hides its convolutions; use the module it was scripted from.",
        )
    return Observation(tuple(watch.calls), below.writes)


class _Watch(TorchFunctionMode):
    """Follows which module is running (by global hooks, so that the network is not touched) and its convolutions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._buffers = {id(buffer) for buffer in model.buffers()}
        self._running: list[nn.Module] = []
        self._hooks = ExitStack()
        self._in_function = False
        self.unaccounted: list[str] = []
        self.unregistered: tuple[str, str] | None = None
        # Outputs that a normalisation may take, how often each had been written to, and their calls.
        self._latest: list[tuple[Tensor, int, int]] = []

    def __enter__(self) -> _Watch:
        self._hooks.enter_context(register_module_forward_pre_hook(self._enter_module))
        self._hooks.enter_context(register_module_forward_hook(self._leave_module, always_call=True))
        super().__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._hooks.close()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        spatial = CONV_FUNCTIONS.get(func)
        self._in_function = spatial is not None
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._in_function = False
        if spatial is not None and not any(isinstance(m, _ConvNd) for m in self._running):
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            fixed = id(weight) in self._buffers or id(weight._base) in self._buffers
            x = args[0] if args else (kwargs or {})["input"]
            self._record(self._running[-1], func.__name__, x, result, spatial, functional=True, fixed=fixed)
        return result

    def convolves(self) -> None:
        """Notes a convolution below autograd: some recorded call must be making it."""
        if not self._in_function and not any(isinstance(m, _ConvNd) for m in self._running):
            self.unaccounted.append(self._paths[id(self._running[-1])] if self._running else "")

    def _enter_module(self, module: nn.Module, _inputs: object) -> None:
        if id(module) in self._paths:
            self._running.append(module)
        elif isinstance(module, _ConvNd) and self._running and self.unregistered is None:
            self.unregistered = self._paths[id(self._running[-1])], type(module).__name__

    def _leave_module(self, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if id(module) not in self._paths:
            return
        self._running.pop()
        if not isinstance(output, Tensor):
            return
        x = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if isinstance(module, _ConvNd) and not any(isinstance(m, _ConvNd) for m in self._running):
            self._record(module, type(module).__name__, x, output, len(module.kernel_size))
        elif x is not None and self._latest and _normalizes(module):
            self._pair(module, x, output)

    def _record(
        self,
        module: nn.Module,
        kind: str,
        x: Tensor | None,
        output: Tensor,
        spatial: int,
        *,
        functional: bool = False,
        fixed: bool = False,
    ) -> None:
        shape = tuple(output.shape[output.dim() - spatial - 1 :])
        leading = output.shape[0] if output.dim() > len(shape) else None
        taken = () if x is None else tuple(x.shape[x.dim() - spatial - 1 :])
        self._latest = [*self._latest[-_REMEMBERED + 1 :], (output, _version(output), len(self.calls))]
        path = self._paths[id(module)]
        self.calls.append(Call(path, kind, shape, leading, functional, fixed, input_shape=taken))

    def _pair(self, norm: nn.Module, x: Tensor, output: Tensor) -> None:
        """Notes that a normalisation took a convolution's output."""
        index = next((i for tensor, was, i in self._latest if tensor is x and _version(x) == was), None)
        if index is not None and self.calls[index].norm is None:
            shape = tuple(output.shape[output.dim() - len(self.calls[index].shape) :])
            leading = output.shape[0] if output.dim() > len(shape) else None
            call = Call(self._paths[id(norm)], type(norm).__name__, shape, leading)
            self.calls[index] = replace(self.calls[index], norm=call)


def _version(tensor: Tensor) -> int:
    """How often something was written into a tensor."""
    return 0 if tensor.is_inference() else tensor._version


_REMEMBERED = 4
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def _normalizes(module: nn.Module) -> bool:
    """Whether a module is a normalisation, of torch's or by its name (FrozenBatchNorm2d), and not a block with one."""
    if isinstance(module, _NORMS):
        return True
    return "norm" in type(module).__name__.lower() and not any(isinstance(m, _ConvNd) for m in module.modules())


class ConvolutionCount(TorchDispatchMode):
    """Counts convolutions where every one of them passes, whatever module or function made it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.total += func in CONVOLUTIONS
        return func(*args, **(kwargs or {}))


class _Below(TorchDispatchMode):
    """Sees every operation where all of them pass, whoever makes it: convolutions, and writes into parameters."""

    def __init__(self, watch: _Watch, model: nn.Module) -> None:
        super().__init__()
        self._watch = watch
        parameters = list(model.parameters())
        self._storages = {_storage(p) for p in parameters if not is_lazy(p)}
        self.writes = any(map(is_lazy, parameters))  # its first forward writes it

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in CONVOLUTIONS:
            self._watch.convolves()
            if func is aten.convolution.default and args[0].is_meta:
                return _like_convolved(*args)
        elif func._schema.is_mutable and args and isinstance(args[0], Tensor):
            self.writes = self.writes or _storage(args[0]) in self._storages
        elif func in _SHAPES and args[0].is_meta:
            return _SHAPES[func](*args)
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _like(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty_strided(x.shape, x.stride())


def _like_normalized(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(0)  # which nobody reads without a backward pass
    return _like(x), statistics, statistics


def _like_convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    plain = x.dim() == weight.dim() and len(stride) == len(padding) == len(dilation) == x.dim() - 2 and not transposed
    if plain and x.is_contiguous() and x.shape[1] == weight.shape[1] * groups:
        sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        shape = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
        if min(shape) > 0:
            return x.new_empty((x.shape[0], weight.shape[0], *shape))
    # Torch knows the rest, and how to complain.
    result: Tensor = aten.convolution.default(
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
    )
    return result


_SHAPES: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _like_normalized,
    aten.native_layer_norm.default: _like_normalized,
    aten.native_group_norm.default: _like_normalized,
    aten._safe_softmax.default: _like,
    aten.gelu.default: _like,
    aten.addmm.default: lambda _, a, b: a.new_empty(a.shape[0], b.shape[1]),
}
"""Shapes of results on the meta device, where torch takes a millisecond each to decompose these."""
