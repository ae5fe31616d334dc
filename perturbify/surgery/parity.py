"""The probe: with the noise off, a wrapped network is its source, bit for bit, or it is not handed out."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from perturbify.errors import InputSizeError, ParityError, SurgeryError
from perturbify.perturbation import Perturbation, noise, perturbations
from perturbify.surgery.copying import copy_network
from perturbify.surgery.perturbed import Perturbed
from perturbify.surgery.sites import first_line

SEED = 0

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword inputs of one forward pass."""


@contextmanager
def reproducible(model: nn.Module) -> Iterator[None]:
    """Fixes what a forward pass draws and which kernels it picks; the caller's generators are as before afterwards."""
    devices = {p.device for p in model.parameters() if p.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    with (
        torch.random.fork_rng(devices=[d.index for d in devices]),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        torch.no_grad(),
    ):
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def probe(source: nn.Module, wrapped: nn.Module, inputs: Inputs, other_inputs: Inputs, modes: Collection[str]) -> None:
    """Compares outputs and buffers of a network and its wrapped form, in both modes.

    The second comparison is made with other weights, so that nothing computed from them can have become a constant.

    Args:
        source: The source network; copies of it run.
        wrapped: Its wrapped form; copies of it run with the noise off.
        inputs: Positional and keyword inputs.
        other_inputs: The same at another batch size; left out where the source does not take them.
        modes: ``"eval"``, ``"train"``: those in which the source takes the inputs.

    Raises:
        ParityError: They differ; names the mode and the first module whose output differs.
        SurgeryError: A feature map has another shape at another batch size, and θ does not fit it.
    """
    for training in (mode == "train" for mode in modes):
        rounds = [_Round(source, wrapped, training, inputs), _Round(source, wrapped, training, inputs, SEED)]
        if other_inputs is not inputs:
            other = _Round(source, wrapped, training, other_inputs, SEED)
            if other.source_works():
                rounds[1] = other
        # What a forward leaves behind in Python's hands shows in the next one only.
        rounds[0].compare(forwards=2)
        rounds[1].compare(forwards=1)
        rounds[1].run_with_noise()


@dataclass(frozen=True)
class _Round:
    """One comparison; every forward runs on a fresh pair of copies."""

    source: nn.Module
    wrapped: nn.Module
    training: bool
    inputs: Inputs
    weights_seed: int | None = None

    def source_works(self) -> bool:
        try:
            _run(self._copies()[1], self.inputs)
        except Exception:
            return False
        return True

    def compare(self, forwards: int) -> None:
        ours, theirs = self._copies()
        want = [_run(theirs, self.inputs) for _ in range(forwards)]
        try:
            with noise(ours, enabled=False):
                got = [_run(ours, self.inputs) for _ in range(forwards)]
        except Exception as error:
            raise self._differs(f"the wrapped one fails ({first_line(error)})") from error
        if not (same(got, want) and _same_buffers(ours, theirs)):
            raise self._differs(f"the first module that differs is {self._first_difference()}")

    def run_with_noise(self) -> None:
        ours, _ = self._copies()
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

    def _copies(self) -> tuple[nn.Module, nn.Module]:
        ours, theirs = (copy_network(m).train(self.training) for m in (self.wrapped, self.source))
        if self.weights_seed is not None:
            _change_weights(ours, theirs, self.weights_seed)
        return ours, theirs

    def _differs(self, how: str) -> ParityError:
        mode = "train" if self.training else "eval"
        return ParityError(
            f"With the noise off, the wrapped {type(self.source).__name__} differs from the source in {mode} mode; "
            f"{how}.",
            "Its forward depends on something outside of the network."
            if isinstance(self.wrapped, Perturbed) and self.wrapped.surgery.runs_source
            else 'Its forward does something that torch.fx records wrongly; wrap it with backend="hook".',
        )

    def _first_difference(self) -> str:
        ours, theirs = self._copies()
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
    if is_dataclass(a) and type(a) is type(b):
        return same(vars(a), vars(b))
    return type(a) is type(b) and bool(a == b)


def _same_buffers(wrapped: nn.Module, source: nn.Module) -> bool:
    ours = dict(wrapped.named_buffers())
    return all(name in ours and _same_leaf(ours[name], value) for name, value in source.named_buffers())


def _change_weights(ours: nn.Module, theirs: nn.Module, seed: int) -> None:
    """Scales every parameter and floating buffer of both networks by the same random numbers near 1."""
    generator = torch.Generator().manual_seed(seed)
    to_change = dict([*ours.named_parameters(), *ours.named_buffers()])
    for name, value in [*theirs.named_parameters(), *theirs.named_buffers()]:
        if value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            factor = 1 + 0.1 * torch.rand(value.shape, generator=generator)
            value.data = value.data * factor.to(value)
            to_change[name].data = value.data.clone()


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
