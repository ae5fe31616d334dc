"""One model of the census: its calls, its sites, and whether the noise-free network is its source."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import perturbify
from perturbify import zoo
from perturbify.census.specimen import MODES, Specimen, at_default, smaller
from perturbify.errors import ModelError, NoConvolutions, PerturbifyError
from perturbify.surgery.copying import copy_network
from perturbify.surgery.parity import same
from perturbify.surgery.perturbed import Perturbed
from perturbify.surgery.planning import FIXED_FILTER
from perturbify.surgery.reproducible import reproducible
from perturbify.surgery.sites import ConvolutionCount
from perturbify.text import first_line

MEMORY_LIMIT = 20 * 2**30
"""Bytes that one model may take; of a larger one a variant with fewer layers is checked."""

_FEWER_LAYERS: tuple[dict[str, Any], ...] = (
    {"depth": 2},
    {"depth": 2, "num_kv_heads": [16, 16]},  # sapiens2 counts them for each block
    {"depths": [1, 1, 1, 1]},
)


@dataclass(frozen=True)
class Row:
    """What the census found about one model.

    Attributes:
        name: Qualified name.
        status: ``"complete"``: every call on learned weights has its noise, and without it the outputs are the
            source's, in both modes; ``"no convolutions"``: refused for that reason, and rightly; ``"incomplete"``.
        calls: ``aten.convolution`` calls of one forward in mode ``"eval"`` and ``"train"``, as the library builds the
            model and at its default input.
        fx: Calls with their noise in a torch.fx graph, in the mode that has more of them.
        hook: Calls with their noise in a forward hook.
        skipped: Calls on fixed filters.
        parity: Whether outputs and buffers equal the source's bit for bit, by mode.
        noisy: Calls of noise modules in one forward, by mode.
        parameters: Of the model.
        checked: The size of the input and the constructor's arguments with which it was wrapped.
        shrunken: Whether that was a variant with fewer layers, the model being too large.
        not_entered: Modules that torch.fx could not enter, and why.
        seconds: For all of it.
        error: What went wrong.
    """

    name: str
    status: str = "incomplete"
    calls: dict[str, int] = field(default_factory=dict)
    fx: int = 0
    hook: int = 0
    skipped: int = 0
    parity: dict[str, bool] = field(default_factory=dict)
    noisy: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    checked: dict[str, Any] = field(default_factory=dict)
    shrunken: bool = False
    not_entered: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


class TooLarge(PerturbifyError):
    """A model that needs more memory than there is; ``bytes`` says how much."""

    def __init__(self, name: str, bytes_: int) -> None:
        super().__init__(f"{name} needs {bytes_ / 2**30:.1f} GiB.")
        self.bytes = bytes_


def examine(name: str, *, memory: int = MEMORY_LIMIT) -> Row:
    """Counts the calls of a model, wraps it, and compares.

    The calls are counted at the model's default input, on the meta device where it runs there. The surgery is done on
    a model with random weights, at the smallest input with the same calls.

    Args:
        name: As for :func:`perturbify.zoo.resolve`.
        memory: Bytes that it may take.

    Raises:
        TooLarge: It needs more, and would fit into :data:`MEMORY_LIMIT`.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {"name": name}
    try:
        default = at_default(zoo.resolve(name))
        found |= {"calls": default.calls, "parameters": default.parameters}
        needed = 2 * 4 * default.parameters  # the source and its wrapped form
        if memory < needed <= MEMORY_LIMIT:
            raise TooLarge(name, needed)
        found |= _held_against(default, shrink=needed > MEMORY_LIMIT)
    except TooLarge:
        raise
    except Exception as error:
        found |= {"error": f"{type(error).__name__}: {first_line(error)}"}
    return Row(**found, seconds=round(time.perf_counter() - started, 1))


def _held_against(default: Specimen, *, shrink: bool) -> dict[str, Any]:
    for specimen in _shrunken(default) if shrink else smaller(default):
        source = specimen.build()
        inputs = specimen.inputs(source)
        about = {"checked": {"size": list(specimen.size), "arguments": specimen.arguments}, "shrunken": shrink}
        try:
            wrapped = perturbify.wrap(source, example_input=inputs)
        except NoConvolutions as error:
            none = not any(specimen.calls.values())
            return about | ({"status": "no convolutions"} if none else {"error": error.message})
        except ModelError:  # a size that passed without values, and does not with them
            if specimen.size == default.size:
                raise
            continue
        return about | _compare(source, wrapped, specimen, inputs)
    raise ModelError(f"{default.name} is too large, and how to make it smaller is not known.")


def _shrunken(default: Specimen) -> list[Specimen]:
    for arguments in _FEWER_LAYERS:
        try:
            return [next(smaller(default, arguments=arguments))]
        except ModelError:
            continue
    return []


def _compare(source: nn.Module, wrapped: Perturbed, specimen: Specimen, inputs: tuple[Any, ...]) -> dict[str, Any]:
    plan = wrapped.surgery.plan
    sites = {mode: [s for s in plan.sites if s.modes in (mode, "both")] for mode in MODES}
    fixed = [s for s in plan.skipped if s.reason == FIXED_FILTER]
    skipped = {mode: sum(s.modes in (mode, "both") for s in fixed) for mode in MODES}
    ways = {way: max(sum(s.way == way for s in sites[mode]) for mode in MODES) for way in ("fx", "hook")}
    noisy = {mode: _noise_calls(wrapped, inputs, mode) for mode in MODES}
    compared = {mode: _equal(source, wrapped, inputs, mode) for mode in MODES}
    parity, small = ({mode: pair[i] for mode, pair in compared.items()} for i in (0, 1))
    covered = {mode: len(sites[mode]) + skipped[mode] for mode in MODES}
    complete = (
        all(parity.values())
        and specimen.calls == small == covered
        and noisy == {mode: len(sites[mode]) for mode in MODES}
        and set(plan.modes) == set(MODES)
    )
    wrong = "" if complete else f"{small} calls at this size, {covered} covered, compared in {', '.join(plan.modes)}"
    return {
        "status": "complete" if complete else "incomplete",
        **ways,
        "skipped": max(skipped.values()),
        "parity": parity,
        "noisy": noisy,
        "not_entered": plan.opaque,
        "error": wrong,
    }


def _equal(source: nn.Module, wrapped: Perturbed, inputs: tuple[Any, ...], mode: str) -> tuple[bool, int]:
    """Whether outputs and buffers agree after one forward of each, and the convolution calls of the source."""
    with reproducible(source), ConvolutionCount() as calls:
        want = source.train(mode == "train")(*inputs)
    with reproducible(wrapped), perturbify.noise(wrapped, enabled=False):
        got = wrapped.train(mode == "train")(*inputs)
    buffers = dict(wrapped.named_buffers())
    equal = same(got, want) and all(same(buffers[name], value) for name, value in source.named_buffers())
    return equal, calls.total


def _noise_calls(wrapped: Perturbed, inputs: tuple[Any, ...], mode: str) -> int:
    """Calls of noise modules that add something, in one forward."""
    adding = 0

    def watch(module: nn.Module, given: tuple[Tensor, ...], _output: Any) -> None:
        nonlocal adding
        silence = torch.zeros_like(given[0])  # random weights may make feature maps so large that noise is rounded off
        adding += not same(module.forward(silence), silence) or silence.numel() == 0

    twin = copy_network(wrapped, "share")  # which the forward may change
    for _, perturbation in perturbify.perturbations(twin):
        perturbation.register_forward_hook(watch)
    with reproducible(twin):
        twin.train(mode == "train")(*inputs)
    return adding
