"""One model of the census: its calls, its sites, and whether the network without noise equals its source."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import perturbify
from perturbify import zoo
from perturbify.census import libraries
from perturbify.census.specimen import MODES, Specimen, at_default, count, run, smaller
from perturbify.copying import copy_network
from perturbify.errors import ModelError, NoConvolutions, PerturbifyError
from perturbify.generators import reproducible
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.noisy import Perturbed
from perturbify.surgery.observe import ConvolutionCount
from perturbify.surgery.sites.convolution import FIXED_FILTER
from perturbify.surgery.verify import same
from perturbify.text import first_line

MEMORY_LIMIT = 20 * 2**30
"""Memory limit for one model, in bytes; for a larger model, a variant with fewer layers is checked."""

_FEWER_LAYERS: tuple[dict[str, Any], ...] = (
    {"depth": 2},
    {"depth": 2, "num_kv_heads": [16, 16]},  # sapiens2 has one per block
    {"depths": [1, 1, 1, 1]},
)


@dataclass(frozen=True)
class Row:
    """The census result for one model.

    Attributes:
        name: Qualified name.
        status: ``"complete"``: every call on learned weights has its noise, and without it the outputs equal the
            source's, in both modes; ``"no convolutions"``: correctly refused for that reason; ``"incomplete"``.
        calls: ``aten.convolution`` calls of one forward pass in mode ``"eval"`` and ``"train"``, for the library's
            default model and input size.
        output: Calls with their noise behind the forward of the module that makes them, in the mode with more of them.
        inner: Calls with their noise at that module's ``_conv_forward``.
        graph: Calls with their noise at a node of that module's own torch.fx graph.
        skipped: Calls on fixed filters.
        parity: Whether outputs and buffers equal the source's bit for bit, by mode.
        noisy: Calls of noise modules in one forward pass, by mode.
        parameters: Number of parameters.
        checked: The input size and constructor arguments with which it was wrapped; under ``"eval"`` or ``"train"`` why
            it fails in that mode, which then does not count; ``"grain"`` of θ, if one per element does not fit.
        shrunken: Whether that was a variant with fewer layers, since the model is too large.
        seconds: Total time.
        error: What went wrong.
    """

    name: str
    status: str = "incomplete"
    calls: dict[str, int] = field(default_factory=dict)
    output: int = 0
    inner: int = 0
    graph: int = 0
    skipped: int = 0
    parity: dict[str, bool] = field(default_factory=dict)
    noisy: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    checked: dict[str, Any] = field(default_factory=dict)
    shrunken: bool = False
    seconds: float = 0.0
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


class TooLarge(PerturbifyError):
    """A model that needs more memory than allowed; ``bytes`` says how much."""

    def __init__(self, name: str, bytes_: int) -> None:
        super().__init__(f"{name} needs {bytes_ / 2**30:.1f} GiB.")
        self.bytes = bytes_


def examine(name: str, *, memory: int = MEMORY_LIMIT) -> Row:
    """Counts the calls of a model, wraps it, and compares.

    The calls of a timm or torchvision model are counted at its default input size, on the meta device if it runs there.
    The surgery is done on a model with random weights, at the smallest input with the same calls. Networks of other
    libraries are small already, and their calls are counted at the input with which they are wrapped.

    Args:
        name: As for :func:`perturbify.zoo.resolve`, or as :func:`perturbify.census.libraries.network_names` lists it.
        memory: Memory limit in bytes.

    Raises:
        TooLarge: It needs more than ``memory``, but no more than :data:`MEMORY_LIMIT`.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {"name": name}
    try:
        found |= _of_library(name) if name.partition(":")[0] in libraries.ROOMS else _of_zoo(name, memory)
    except TooLarge:
        raise
    except Exception as error:
        found |= {"error": f"{type(error).__name__}: {first_line(error)}"}
    return Row(**found, seconds=round(time.perf_counter() - started, 1))


def _of_library(name: str) -> dict[str, Any]:
    calls: dict[str, int] = {}
    silent: dict[str, str] = {}
    for mode in MODES:
        counted = libraries.build(name)  # a new one each time, since a forward pass may leave state behind
        try:
            calls[mode] = count(counted.model, counted.inputs, mode)
        except Exception as error:
            silent[mode] = f"{type(error).__name__}: {first_line(error)}"
    network = libraries.build(name)
    checked = {"size": network.sizes, "arguments": network.arguments, **silent}
    found = {"calls": calls, "parameters": sum(p.numel() for p in network.model.parameters()), "checked": checked}
    if "eval" not in calls:
        return found | {"error": f"The unwrapped model fails: {silent['eval']}"}
    try:
        return found | _wrapped(network, PerturbConfig(), calls)
    except _OtherSizesError:
        checked["grain"] = "channel"
        return found | _wrapped(libraries.build(name), PerturbConfig(grain="channel"), calls)


class _OtherSizesError(Exception):
    """Feature-map sizes depend on values, which noise changes: one θ per element does not fit."""


def _wrapped(network: libraries.Network, config: PerturbConfig, calls: dict[str, int]) -> dict[str, Any]:
    try:
        wrapped = perturbify.wrap(network.model, config, example_input=network.inputs)
        return _compare(network.model, wrapped, calls, network.inputs)
    except NoConvolutions as error:
        return _without_site(calls, error)
    except Exception as error:
        if config.fixes_size and 'grain="channel"' in str(error):
            raise _OtherSizesError from error
        return {"error": f"{type(error).__name__}: {first_line(error)}"}


def _of_zoo(name: str, memory: int) -> dict[str, Any]:
    default = at_default(zoo.resolve(name))
    found = {"calls": default.calls, "parameters": default.parameters}
    needed = 2 * 4 * default.parameters  # the source and its wrapped form
    if memory < needed <= MEMORY_LIMIT:
        raise TooLarge(name, needed)
    return found | _held_against(default, shrink=needed > MEMORY_LIMIT)


def _without_site(calls: dict[str, int], error: NoConvolutions) -> dict[str, Any]:
    return {"error": error.message} if any(calls.values()) else {"status": "no convolutions"}


def _held_against(default: Specimen, *, shrink: bool) -> dict[str, Any]:
    for specimen in _shrunken(default) if shrink else smaller(default):
        source = specimen.build()
        inputs = specimen.inputs(source)
        about = {"checked": {"size": list(specimen.size), "arguments": specimen.arguments}, "shrunken": shrink}
        try:
            wrapped = perturbify.wrap(source, example_input=inputs)
        except NoConvolutions as error:
            return about | _without_site(specimen.calls, error)
        except ModelError:  # a size that works on the meta device, but not with real values
            if specimen.size == default.size:
                raise
            continue
        return about | _compare(source, wrapped, specimen.calls, inputs)
    raise ModelError(f"{default.name} is too large, and no smaller variant is known.")


def _shrunken(default: Specimen) -> list[Specimen]:
    for arguments in _FEWER_LAYERS:
        try:
            return [next(smaller(default, arguments=arguments))]
        except ModelError:
            continue
    return []


def _compare(source: nn.Module, wrapped: Perturbed, calls: dict[str, int], inputs: Any) -> dict[str, Any]:
    plan = wrapped.surgery.plan
    sites = {mode: [s for s in plan.sites if s.modes in (mode, "both")] for mode in calls}
    fixed = [s for s in plan.skipped if s.reason == FIXED_FILTER]
    skipped = {mode: sum(s.modes in (mode, "both") for s in fixed) for mode in calls}
    ways = {way: max(sum(s.way == way for s in sites[mode]) for mode in calls) for way in ("output", "inner", "graph")}
    compared = {mode: _equal(source, wrapped, inputs, mode) for mode in calls}
    noisy = {mode: _noise_calls(wrapped, inputs, mode) for mode in calls}  # may write into parameters
    parity, small = ({mode: pair[i] for mode, pair in compared.items()} for i in (0, 1))
    covered = {mode: len(sites[mode]) + skipped[mode] for mode in calls}
    complete = (
        all(parity.values())
        and calls == small == covered
        and noisy == {mode: len(sites[mode]) for mode in calls}
        and set(plan.modes) == set(calls)
    )
    wrong = "" if complete else f"{small} calls at this size, {covered} covered, compared in {', '.join(plan.modes)}"
    return {
        "status": "complete" if complete else "incomplete",
        **ways,
        "skipped": max(skipped.values()),
        "parity": parity,
        "noisy": noisy,
        "error": wrong,
    }


def _equal(source: nn.Module, wrapped: Perturbed, inputs: Any, mode: str) -> tuple[bool, int]:
    """Whether outputs and buffers agree after one forward pass of each, and the source's convolution calls."""
    with reproducible(source), ConvolutionCount() as calls:
        want = run(source.train(mode == "train"), inputs)
    with reproducible(wrapped), perturbify.noise(wrapped, enabled=False):
        got = run(wrapped.train(mode == "train"), inputs)
    buffers = dict(wrapped.named_buffers())
    equal = same(got, want) and all(same(buffers[name], value) for name, value in source.named_buffers())
    return equal, calls.total


def _noise_calls(wrapped: Perturbed, inputs: Any, mode: str) -> int:
    """Calls of noise modules that add noise, in one forward pass."""
    adding = 0
    before = torch.get_rng_state()

    def keep(_module: nn.Module, _given: tuple[Tensor, ...]) -> None:
        nonlocal before
        before = torch.get_rng_state()

    def watch(module: nn.Module, given: tuple[Tensor, ...], _output: Any) -> None:
        nonlocal adding
        silence = torch.zeros_like(given[0])  # with random weights, maps can be so large that noise is rounded away
        adding += not same(module.forward(silence), silence) or silence.numel() == 0
        torch.set_rng_state(before)  # the network's own draws decide which layers it skips

    twin = copy_network(wrapped, "share")  # the forward pass may change it
    for _, perturbation in perturbify.perturbations(twin):
        perturbation.register_forward_pre_hook(keep)
        perturbation.register_forward_hook(watch)
    with reproducible(twin):
        run(twin.train(mode == "train"), inputs)
    return adding
