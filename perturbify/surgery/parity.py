"""The probe: with the noise off, a wrapped network is its source, bit for bit, or it is not handed out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from perturbify.errors import InputSizeError, ParityError, SurgeryError, TraceError
from perturbify.perturbation import Perturbation, noise, perturbations
from perturbify.surgery.copying import copy_network
from perturbify.surgery.perturbed import Perturbed
from perturbify.surgery.reproducible import reproducible
from perturbify.surgery.sites import ConvolutionCount
from perturbify.text import first_line

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword inputs of one forward pass."""


def probe(
    source: nn.Module, wrapped: Perturbed, batches: Sequence[Inputs], modes: Collection[str], *, share: bool
) -> tuple[str, ...]:
    """Compares outputs and buffers of a network and its wrapped form, in both modes.

    Args:
        source: The source network; copies of it run.
        wrapped: Its wrapped form; copies of it run with the noise off, and once with the noise on.
        batches: Positional and keyword inputs, and the same at another batch size (left out where the source does not
            take them).
        modes: ``"eval"``, ``"train"``: those to compare.
        share: Whether the copies may share the networks' parameters; not where a forward writes into them.

    Returns:
        The modes that were compared: those in which the source takes the inputs.

    Raises:
        ParityError: They differ; names the mode and the first module whose output differs.
        SurgeryError: A feature map has another shape at another batch size, and θ does not fit it.
        TraceError: The source makes other convolution calls in train mode, in code that torch.fx keeps whole.
    """
    compared: dict[str, int] = {}
    for mode in modes:
        last = convolutions = None
        for inputs in batches:
            one = _Round(source, wrapped, mode == "train", inputs, share)
            # What a forward leaves behind in Python's hands shows in the next one only.
            calls = one.compare(forwards=2 if last is None else 1)
            if calls is None:
                break
            last, convolutions = one, calls if convolutions is None else convolutions
        if last is not None and convolutions is not None:
            last.run_with_noise()
            compared[mode] = convolutions
    programs = wrapped.surgery.programs
    if programs.get("train") is programs["eval"] and len({*compared.values()}) > 1:
        raise TraceError(
            f"{type(source).__name__} makes {compared['eval']} convolution calls in eval mode and "
            f"{compared['train']} in train mode, in a module without convolutions of its own.",
            'Wrap it with backend="hook".',
        )
    return tuple(compared)


@dataclass(frozen=True)
class _Round:
    """One comparison; every forward runs on fresh copies."""

    source: nn.Module
    wrapped: Perturbed
    training: bool
    inputs: Inputs
    share: bool

    def compare(self, forwards: int) -> int | None:
        """Convolution calls of the source in its first forward; None where it does not take the inputs."""
        theirs = self._copy(self.source)
        try:
            with ConvolutionCount() as count:
                want = [_run(theirs, self.inputs)]
        except Exception:
            return None
        want += [_run(theirs, self.inputs) for _ in range(forwards - 1)]
        ours = self._copy(self.wrapped)
        try:
            with noise(ours, enabled=False):
                got = [_run(ours, self.inputs) for _ in range(forwards)]
        except Exception as error:
            raise self._differs(f"the wrapped one fails ({first_line(error)})") from error
        if not (same(got, want) and _same_buffers(ours, theirs)):
            raise self._differs(f"the first module that differs is {self._first_difference()}")
        return count.total

    def run_with_noise(self) -> None:
        ours = self._copy(self.wrapped)
        reached = [""]
        for name, perturbation in perturbations(ours):
            perturbation.register_forward_pre_hook(lambda *_, name=name: reached.append(name))
        try:
            with noise(ours):
                _run(ours, self.inputs)
        except InputSizeError as error:
            raise SurgeryError(
                f"The feature map of {reached[-1]} changes its shape with the batch size: {error.message}",
                'Leave it out with exclude=("…",), or wrap with grain="layer".',
            ) from error

    def _copy(self, network: nn.Module) -> nn.Module:
        return copy_network(network, "share" if self.share else "copy").train(self.training)

    def _differs(self, how: str) -> ParityError:
        mode = "train" if self.training else "eval"
        return ParityError(
            f"With the noise off, the wrapped {type(self.source).__name__} differs from the source in {mode} mode; "
            f"{how}.",
            "Its forward depends on something outside of the network."
            if self.wrapped.surgery.runs_source
            else 'Its forward does something that torch.fx records wrongly; wrap it with backend="hook".',
        )

    def _first_difference(self) -> str:
        ours, theirs = self._copy(self.wrapped), self._copy(self.source)
        with noise(ours, enabled=False):
            got = _record(ours, self.inputs)
        want = _record(theirs, self.inputs)
        # Modules that the graph was traced through do not run as modules, so only what ran in both is compared.
        for (path, call), value in got.items():
            if (path, call) in want and not same(value, want[path, call]):
                return path
        return "none that runs as a module: the difference is in what happens between them"


def same(a: Any, b: Any) -> bool:
    """Whether two outputs (tensors, or nests of them) are of the same make and equal bit for bit, NaN included."""
    (left, left_spec), (right, right_spec) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    if type(a) is not type(b) or left_spec != right_spec:
        return False
    return all(_same_leaf(x, y) for x, y in zip(left, right, strict=True))


def _same_leaf(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            return False
        return a.is_meta or bool(((a == b) | ((a != a) & (b != b))).all())
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return same(dict(a), dict(b))
    by_identity = type(a).__eq__ is object.__eq__ and not callable(a)
    if hasattr(a, "__dict__") and (is_dataclass(a) or by_identity or isinstance(a, SimpleNamespace)):
        return same(vars(a), vars(b))
    return bool(a == b)


def _same_buffers(wrapped: nn.Module, source: nn.Module) -> bool:
    ours = dict(wrapped.named_buffers())
    return all(name in ours and _same_leaf(ours[name], value) for name, value in source.named_buffers())


def _run(model: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = inputs
    with reproducible(model):
        return model(*args, **kwargs)


def _record(model: nn.Module, inputs: Inputs) -> dict[tuple[str, int], Any]:
    outputs: dict[tuple[str, int], Any] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            call = sum(1 for p, _ in outputs if p == path)
            outputs[path, call] = pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, output)

        return hook

    for path, module in model.named_modules():
        if path and not isinstance(module, Perturbation):
            module.register_forward_hook(keep(path))
    _run(model, inputs)
    return outputs
