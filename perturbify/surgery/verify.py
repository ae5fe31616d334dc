"""Verifies that the finished network with its noise off equals its source, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from perturbify.copying import copy_network
from perturbify.errors import ParityError, PerturbifyError
from perturbify.example import Example
from perturbify.generators import reproducible
from perturbify.perturbation import Perturbation, Unplaced, noise
from perturbify.surgery.noisy import Perturbed
from perturbify.surgery.observe import ConvolutionCount, Observation
from perturbify.text import first_line


def verify(
    source: nn.Module,
    network: Perturbed,
    seen: Mapping[str, Observation],
    example: Example,
    *,
    share_parameters: bool,
    gradients: bool,
) -> None:
    """Compares outputs and buffers of a finished network, normalisation inside, with those of its source.

    Args:
        source: The source; copies of it run if something differs, or gradients are compared.
        network: The finished network; copies of it run, with the noise off.
        seen: A forward of the source in each mode.
        example: The inputs of the finished network.
        share_parameters: Whether the copies may share the networks' parameters; not if a forward writes into them.
        gradients: Whether to compare the gradients of a step, too: a graph may record a forward but not its backward.

    Raises:
        ParityError: They differ; names the mode and the first module whose output does.
    """
    for mode, want in seen.items():
        check = _Check(source, network, mode == "train", example, share_parameters)
        ours = check.copy(network)
        try:
            with reproducible(ours), noise(ours, enabled=False), ConvolutionCount() as count:
                got = ours(*example.args, **example.kwargs)
        except PerturbifyError:
            raise
        except Exception as error:
            raise check.differs(f"the wrapped one fails ({first_line(error)})") from error
        buffers = dict(ours.named_buffers(remove_duplicate=False))
        equal = all(name in buffers and _same_leaf(buffers[name], value) for name, value in want.buffers.items())
        if not (equal and same(got, want.output) and count.total == len(want.calls)):
            raise check.differs(f"the first module that differs is {check.first_difference()}")
        if gradients and not check.same_gradients():
            raise check.differs("the gradients differ, as with a torch.autograd.Function that has its own backward")


class _Check:
    """One comparison; every forward runs on fresh copies."""

    def __init__(
        self, source: nn.Module, network: Perturbed, training: bool, example: Example, share_parameters: bool
    ) -> None:
        self.source, self.network, self.training = source, network, training
        self.theirs = example.normalized(network.normalize if network.surgery.normalizes else None)
        self.ours = example
        self.share_parameters = share_parameters

    def copy(self, network: nn.Module) -> nn.Module:
        return copy_network(network, "share" if self.share_parameters else "copy").train(self.training)

    def differs(self, how: str) -> ParityError:
        mode = "train" if self.training else "eval"
        return ParityError(
            f"With the noise off, the wrapped {type(self.source).__name__} differs from the source in {mode} mode; "
            f"{how}.",
            "Its forward depends on something outside the network, or iterates over all its modules."
            if all(s.way != "graph" for s in self.network.surgery.plan.sites)
            else "A module's forward does something that torch.fx records wrongly; see the sites whose way is graph.",
        )

    def first_difference(self) -> str:
        ours, theirs = self.copy(self.network), self.copy(self.source)
        with noise(ours, enabled=False):
            got = _record(ours, self.ours)
        want = _record(theirs, self.theirs)
        for (path, call), value in got.items():
            if (path, call) in want and not same(value, want[path, call]):
                return path
        return "none that runs as a module: the difference arises between modules"

    def same_gradients(self) -> bool:
        ours, theirs = self.copy(self.network), self.copy(self.source)
        with noise(ours, enabled=False):
            got = _gradients(ours, self.ours)
        want = _gradients(theirs, self.theirs)
        return all(name in got and _same_leaf(got[name], value) for name, value in want.items())


def same(a: Any, b: Any) -> bool:
    """Whether two outputs (tensors, or nests of them) have one structure and are equal bit for bit, NaN included."""
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


def _record(model: nn.Module, example: Example) -> dict[tuple[str, int], Any]:
    outputs: dict[tuple[str, int], Any] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            call = sum(1 for p, _ in outputs if p == path)
            outputs[path, call] = pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, output)

        return hook

    for path, module in model.named_modules():
        if path and not isinstance(module, (Perturbation, Unplaced)):
            module.register_forward_hook(keep(path))
    with reproducible(model):
        model(*example.args, **example.kwargs)
    return outputs


def _gradients(model: nn.Module, example: Example) -> dict[str, Tensor]:
    parameters = {n: p.requires_grad_() for n, p in model.named_parameters() if p.is_floating_point()}
    with reproducible(model), torch.enable_grad():
        output = model(*example.args, **example.kwargs)
        leaves = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        if not leaves:
            return {}
        found = torch.autograd.grad([t.abs().sum() for t in leaves], [*parameters.values()], allow_unused=True)
    return {n: g for n, g in zip(parameters, found, strict=True) if g is not None}
