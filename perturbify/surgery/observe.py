"""Observes a forward pass: which module's own code makes each convolution call, and what happens to its result."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from perturbify.errors import ModelError
from perturbify.generators import reproducible
from perturbify.perturbation import spread
from perturbify.text import first_line

aten = torch.ops.aten

RETURNED = "its result is what the module returns"
GOES_ON = "the module's forward does more with its result"


@dataclass
class Call:
    """One convolution call of a forward pass.

    Attributes:
        owner: Dotted path of the module whose own code makes it.
        kind: Class of that module, or name of the operator where the module is no convolution.
        number: Index among the owner's convolution calls in this forward, from 0.
        shape: Shape of the output for one image: (C, H, W) for a 2-d convolution.
        input_shape: Shape of the input for one image.
        leading: Size of the output's first dimension, mostly the number of images; None without one.
        learned: Whether its filter depends on anything learned, unlike a blur's buffer.
        returned: Whether its result is what the owner's forward returns, untouched and not used otherwise.
        inner: Whether it is the result of a torch convolution's own ``_conv_forward``.
        takes_input: Whether its input is that of the owner's forward.
        norm: The call of the normalisation that takes its result; None if there is none.
        batch_in_channels: Whether the images are side by side in its channels; the shapes are those of one.
        spreads: Standard deviation of its input and of its output, if measured.
    """

    owner: str
    kind: str
    number: int
    shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    leading: int | None
    learned: bool
    returned: bool = False
    inner: bool = False
    takes_input: bool = False
    norm: Norm | None = None
    batch_in_channels: bool = False
    spreads: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Norm:
    """The call of a normalisation: ``number`` is its index in that module, ``shape`` that of its output."""

    owner: str
    kind: str
    number: int
    shape: tuple[int, ...]
    spread: float


@dataclass(frozen=True)
class Run:
    """One run of a module's forward that adds two feature maps of equal shape: its inputs."""

    owner: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Observation:
    """What one forward pass did, and its result.

    Attributes:
        calls: Its convolution calls, in order.
        runs: How often each module's forward ran, by path.
        adding: Runs of modules that add feature maps, if asked for.
        output: What the network returned.
        buffers: Its buffers afterwards.
    """

    calls: tuple[Call, ...]
    runs: Mapping[str, int]
    adding: tuple[Run, ...]
    output: Any
    buffers: Mapping[str, Tensor]


class WritesParametersError(Exception):
    """The network was about to write into a parameter in its forward, so a copy must not share it."""


def observe(
    network: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    own_parameters: bool,
    additions: bool = False,
    measure: bool = False,
) -> Observation:
    """Runs one forward pass and records what it does.

    Args:
        network: A copy for this purpose: its buffers change as in any forward pass.
        args: Positional inputs.
        kwargs: Keyword inputs.
        own_parameters: Whether the copy may write into its parameters.
        additions: Whether to record where feature maps are added.
        measure: Whether to measure the spreads of feature maps.

    Raises:
        ModelError: The network itself fails on these inputs.
        WritesParametersError: It writes into a parameter that it shares.
    """
    watch = _Watch(network, own_parameters, additions, measure)
    try:
        with reproducible(network), watch.framing(), watch:
            output = network(*args, **kwargs)
    except WritesParametersError:
        raise
    except Exception as error:
        mode = "train" if network.training else "eval"
        raise ModelError(
            f"{type(network).__name__} itself fails on the example input in {mode} mode: {first_line(error)}.",
            "Pass an example_input that the network accepts in both modes.",
        ) from error
    return Observation(
        tuple(watch.calls), watch.runs, tuple(watch.adding), output, dict(network.named_buffers(remove_duplicate=False))
    )


def convolves(operator: Any) -> bool:
    """Whether an operator, of torch, torchvision or others, is a convolution, deformable ones included."""
    name = operator._schema.name.rpartition("::")[2]
    return "conv" in name and not any(word in name for word in ("backward", "convert", "reorder", "prepack"))


class ConvolutionCount(TorchDispatchMode):
    """Counts every convolution, whatever module or function made it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.total += _about(func).convolves
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Operator:
    """What an operator does."""

    convolves: bool
    writes: bool
    views: bool
    adds: bool


@functools.cache
def _about(operator: Any) -> _Operator:
    aliases = [a.alias_info for a in operator._schema.arguments if a.alias_info is not None]
    return _Operator(
        convolves(operator),
        any(a.is_write for a in aliases),
        bool(aliases) and not any(a.is_write for a in aliases),
        operator in (aten.add.Tensor, aten.add_.Tensor),
    )


@dataclass
class _Frame:
    """A module whose forward is running."""

    module: nn.Module
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    taken: Tensor | None
    results: list[tuple[Tensor, int, Call]] = field(default_factory=list)
    used: bool = False
    adds: bool = False


class _Watch(TorchDispatchMode):
    """Sees every operation below autograd, and tracks whose forward is running."""

    def __init__(self, network: nn.Module, own_parameters: bool, additions: bool, measure: bool) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.runs: Counter[str] = Counter()
        self.adding: list[Run] = []
        self._network = network
        self._additions, self._measure = additions, measure
        parameters = [p for p in network.parameters() if not is_lazy(p)]
        self._learned = {_storage(p) for p in parameters}
        self._guarded = set() if own_parameters else self._learned
        self._frames: list[_Frame] = []
        self._open = 0  # frames with results that may still be used
        self._made: Counter[str] = Counter()
        # Results that a normalisation may take, how often each had been written to, and their calls.
        self._latest: list[tuple[Tensor, int, Call]] = []

    @contextmanager
    def framing(self) -> Iterator[None]:
        """Inside, each module reports when its forward runs, even if not called through ``__call__``."""
        missing = object()
        framed: list[tuple[dict[str, Any], str, Any]] = []

        def put(module: nn.Module, name: str, method: Callable[..., Any]) -> None:
            framed.append((vars(module), name, vars(module).get(name, missing)))
            vars(module)[name] = method

        for path, module in self._network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            if isinstance(module, _ConvNd) and hasattr(module, "_conv_forward"):
                put(module, "_conv_forward", self._inner(module._conv_forward))
            put(module, "forward", self._frame(module, path, module.forward))
        try:
            yield
        finally:
            for held, name, before in framed:
                held.pop(name, None)
                if before is not missing:
                    held[name] = before
            self._frames, self._latest = [], []

    def _frame(self, module: nn.Module, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def framed(*args: Any, **kwargs: Any) -> Any:
            inputs = (*args, *kwargs.values())
            frame = _Frame(module, path, args, kwargs, next((i for i in inputs if isinstance(i, Tensor)), None))
            number = self.runs[path]
            self.runs[path] += 1
            before = self._before_norm(frame) if self._latest else None
            self._frames.append(frame)
            try:
                output = forward(*args, **kwargs)
            finally:
                self._frames.pop()
                self._open -= bool(frame.results)
            self._leave(frame, output)
            if before is not None and isinstance(output, Tensor):
                shape = tuple(output.shape[output.dim() - len(before.shape) :])
                measured = self._spread(output)
                before.norm = before.norm or Norm(path, type(module).__name__, number, shape, measured)
            return output

        return framed

    def _inner(self, conv_forward: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            output = conv_forward(*args, **kwargs)
            if self._frames and self._frames[-1].results:
                result, was, call = self._frames[-1].results[-1]
                call.inner = output is result and _version(result) == was
            return output

        return inner

    def _before_norm(self, frame: _Frame) -> Call | None:
        """The call whose result a normalisation takes."""
        if not _normalizes(frame.module):
            return None
        return next((c for t, was, c in self._latest if t is frame.taken and _version(t) == was), None)

    def _leave(self, frame: _Frame, output: Any) -> None:
        if frame.adds:
            self.adding.append(Run(frame.path, frame.args, frame.kwargs))
        if len(frame.results) != 1 or frame.used or not isinstance(output, Tensor):
            return
        result, was, call = frame.results[0]
        spatial = len(call.shape) - 1
        call.returned = (
            _same_values(output, result)
            and _version(result) == was
            and output.dim() in (result.dim(), result.dim() - 1)
            and output.shape[output.dim() - spatial :] == result.shape[result.dim() - spatial :]
        )
        if call.returned:
            call.shape = tuple(output.shape[output.dim() - spatial - 1 :])
            call.leading = output.shape[0] if output.dim() > spatial + 1 else None
            self._note_latest(output, call)

    def _note_latest(self, result: Tensor, call: Call) -> None:
        self._latest = [*self._latest[-_REMEMBERED + 1 :], (result, _version(result), call)]

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        about = _about(func)
        if about.writes and args and isinstance(args[0], Tensor) and _storage(args[0]) in self._guarded:
            raise WritesParametersError
        result = func(*args, **(kwargs or {}))
        given = [t for t in pytree.arg_tree_leaves(*args, **(kwargs or {})) if isinstance(t, Tensor)]
        if any(map(self._is_learned, given)):
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    leaf._perturb_learned = True  # type: ignore[attr-defined]
        if self._open and not about.views:
            stored = {_storage(t) for t in given}
            for frame in self._frames:
                frame.used = frame.used or any(_storage(r) in stored for r, *_ in frame.results)
        if about.convolves:
            self._convolution(func, args, result)
        if about.adds and self._additions and self._frames and _adds_maps(args):
            self._frames[-1].adds = True
        return result

    def _is_learned(self, tensor: Tensor) -> bool:
        return isinstance(tensor, nn.Parameter) or hasattr(tensor, "_perturb_learned")

    def _convolution(self, func: Any, args: tuple[Any, ...], result: Tensor) -> None:
        x, weight = args[0], args[1]
        spatial = weight.dim() - 2
        frame = self._frames[-1]
        module = frame.module
        at_edge = isinstance(module, _ConvNd)  # which pads its input as part of its own work
        takes_input = frame.taken is not None and (at_edge or _same_values(x, frame.taken))
        taken = frame.taken if takes_input and frame.taken is not None else x
        call = Call(
            owner=frame.path,
            kind=type(module).__name__ if at_edge or "deform" in func._schema.name else _name(func, spatial, args),
            number=self._made[frame.path],
            shape=tuple(result.shape[result.dim() - spatial - 1 :]),
            input_shape=tuple(taken.shape[taken.dim() - spatial - 1 :]),
            leading=result.shape[0] if result.dim() > spatial + 1 else None,
            learned=self._is_learned(weight) or _storage(weight) in self._learned,
            takes_input=takes_input,
            spreads=(self._spread(taken), self._spread(result)),
        )
        self._made[frame.path] += 1
        self._open += not frame.results
        frame.results.append((result, _version(result), call))
        self.calls.append(call)
        self._note_latest(result, call)

    def _spread(self, x: Tensor) -> float:
        return spread(x.float()).item() if self._measure and not x.is_meta else math.nan


def _name(func: Any, spatial: int, args: tuple[Any, ...]) -> str:
    """Name of the function, as in F."""
    if func is not aten.convolution.default:
        return str(func._schema.name.rpartition("::")[2])
    return f"conv_transpose{spatial}d" if args[6] else f"conv{spatial}d"


def _adds_maps(args: tuple[Any, ...]) -> bool:
    left, right = args[:2]
    both = isinstance(left, Tensor) and isinstance(right, Tensor)
    return both and left.shape == right.shape and left.dim() > 1


def _storage(tensor: Tensor) -> int:
    if tensor.layout is not torch.strided or type(tensor) not in (Tensor, nn.Parameter):
        return id(tensor)
    return tensor.untyped_storage()._cdata


def _same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, in whatever shape."""
    return _storage(one) == _storage(other) and one.numel() == other.numel()


def _version(tensor: Tensor) -> int:
    """How often a tensor has been written to."""
    return 0 if tensor.is_inference() else tensor._version


_REMEMBERED = 4
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def _normalizes(module: nn.Module) -> bool:
    """Whether a module is a normalisation, of torch's or by its name (FrozenBatchNorm2d), and not a block with one."""
    if isinstance(module, _NORMS):
        return True
    return "norm" in type(module).__name__.lower() and not any(isinstance(m, _ConvNd) for m in module.modules())
