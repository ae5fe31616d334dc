"""From a header to the network it describes: rehearsed on the meta device, then built, wrapped, filled, and tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from perturbify import zoo
from perturbify.checkpoint import container
from perturbify.checkpoint.agreement import check_arguments, check_fits, check_values
from perturbify.checkpoint.budget import CALLS, Budget, no_larger_than
from perturbify.checkpoint.container import Contents, Shape
from perturbify.checkpoint.header import DTYPES, Header, versions
from perturbify.copying import copy_network
from perturbify.errors import CheckpointError
from perturbify.perturbation import noise
from perturbify.surgery.config import PerturbConfig, relative_start
from perturbify.surgery.noisy import Perturbed
from perturbify.surgery.plan import Plan
from perturbify.surgery.wrap import plan, wrap
from perturbify.text import counted, first_line
from perturbify.zoo.build import skeleton

Place = tuple[str, str, tuple[int, ...], tuple[int, ...]]
Cost = Literal["usual", "large", "unknown"]
ForMethod = Callable[[Perturbed, str | None], object]
"""Records on a network the defence that its file names, and raises if it does not suit; None: the file names none."""

USUAL = 2**27
"""Numbers that a network with few weights may compute per forward pass in each mode before it counts as large."""
PER_WEIGHT = 128
"""The same for each of its weights."""


@dataclass(frozen=True)
class Restored:
    """A network restored from a file.

    Attributes:
        network: On the CPU, in eval mode, noise on.
        ran: Whether it was run and compared with its source; not if its feature maps are far larger than its weights.
    """

    network: Perturbed
    ran: bool


def restore(
    header: Header,
    contents: Contents,
    path: Path,
    model: nn.Module | None = None,
    *,
    for_method: ForMethod,
    trust_factory: bool = False,
) -> Restored:
    """Builds the network that a file describes, fills it, and tries it.

    Args:
        header: From :func:`perturbify.checkpoint.read`.
        contents: From the same call.
        path: The file, for messages.
        model: As for :func:`build`.
        for_method: As for :func:`build`.
        trust_factory: As for :func:`perturbify.load`.

    Raises:
        CheckpointError: Header, tensors and network do not fit each other.
    """
    source, cost = _source(header, contents.shapes, path, model, trust_factory=trust_factory)
    network = _operate(source, cost, header, contents.shapes, path, for_method)
    fill(network, contents.tensors, header, path)
    if cost != "large":
        check_answers(network, header, f"{path} cannot be right")
    return Restored(network.eval(), cost != "large")


def build(
    header: Header,
    shapes: Mapping[str, Shape],
    path: Path,
    model: nn.Module | None = None,
    *,
    for_method: ForMethod,
    trust_factory: bool = False,
) -> Perturbed:
    """Builds the network that a header describes, with fresh weights.

    Args:
        header: The file's header, already checked against its tensors.
        shapes: Shapes of the file's tensors, by name.
        path: The file, for messages.
        model: The source network, if the header does not say how to build it; it is not changed.
        for_method: Records the defence on the network and checks it; passed in by a caller that knows the defences.
        trust_factory: As for :func:`perturbify.load`.

    Raises:
        CheckpointError: A factory is not trusted, the source network is needed, or its state dict or sites differ from
            the file's.
    """
    source, cost = _source(header, shapes, path, model, trust_factory=trust_factory)
    return _operate(source, cost, header, shapes, path, for_method)


def _operate(
    source: nn.Module, cost: Cost, header: Header, shapes: Mapping[str, Shape], path: Path, for_method: ForMethod
) -> Perturbed:
    """Wraps a source network as the header says."""
    settings, run = header.settings(), cost != "large"
    if settings is not None and settings.site == "addition" and not run:
        raise CheckpointError(
            f"{path} cannot be loaded: its additions show only in a run, and its feature maps are too large for that.",
            "Wrap the network again, at a smaller input size.",
        )
    weights = sum(map(math.prod, shapes.values()))
    # Source and network run in both modes, and once more for the comparison.
    budget = Budget(8 * CALLS, 4 * max(USUAL, PER_WEIGHT * weights), max(2**24, 2 * weights))
    args, kwargs = header.example("cpu" if run else "meta")
    try:
        with budget if cost == "unknown" else nullcontext():
            network = wrap(
                _typed(source.to("cpu", DTYPES[header.dtype]), header),
                _unmeasured(settings),
                example_input=args or kwargs,
                normalize=header.normalization(),
                verify=run,
            )
    except Exception:
        if not budget.over:
            raise
    if budget.over:
        raise CheckpointError(
            f"{path} cannot be loaded: its network computes far more than its weights and inputs justify."
        )
    network.surgery = replace(network.surgery, plan=replace(network.surgery.plan, config=settings))
    for_method(network, header.method)
    difference = _difference(network.surgery.plan, header)
    if difference:
        raise _others(difference, header, path)
    check_fits(network.state_dict(), header, shapes, path)
    return network


def fill(network: Perturbed, tensors: Mapping[str, Tensor], header: Header, path: Path) -> None:
    """Fills a network from a file's tensors; every key must fit.

    Raises:
        CheckpointError: A key is missing, unexpected, of another shape or dtype, or not finite.
    """
    check_fits(network.state_dict(), header, container.shapes(tensors), path)
    stored = dict(tensors) | {alias: tensors[kept] for alias, kept in header.aliases.items()}
    # The network's own dict, since it holds the modules' versions: without them, some assume an old file.
    state = network.state_dict(keep_vars=True)
    for key, held in state.items():
        dtype = stored[key].dtype
        if dtype != held.dtype and not {dtype, held.dtype} <= set(DTYPES.values()):
            raise CheckpointError(f"{path} does not fit its network: {key} is {dtype}, not {held.dtype}.")
    check_values(network, stored, f"{path} cannot be right")
    for key, held in state.items():
        held.data = held.data.to(stored[key].dtype)
    state.update(stored)
    network.load_state_dict(state)


def check_answers(network: nn.Module, header: Header, about: str) -> None:
    """Runs a network with the noise off: its outputs must be finite, with one class name per logit.

    Args:
        network: With its final weights.
        header: Its header.
        about: Where it comes from, for the message.

    Raises:
        CheckpointError: It fails, outputs non-finite numbers, or the number of class names differs from the number of
            logits.
    """
    args, kwargs = header.example()
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad(), noise(network, enabled=False):
            out = network.eval()(*_on(args, device), **_on(kwargs, device))
    except Exception as error:
        raise CheckpointError(f"{about}: its network fails on its own inputs ({first_line(error)}).") from error
    finally:
        for module, training in modes:
            module.training = training
    for leaf in pytree.tree_leaves(out):
        # -inf may mark masked outputs; half precision overflows on random pixels.
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            wrong = leaf.isnan() if leaf.dtype == torch.float16 else leaf.isnan() | (leaf == math.inf)
            if bool(wrong.any()):
                raise CheckpointError(f"{about}: its network outputs numbers that are not finite.")
    if (
        isinstance(out, Tensor)
        and out.dim() == 2
        and header.classes is not None
        and len(header.classes) != out.shape[1]
    ):
        raise CheckpointError(
            f"{about}: it has {counted(len(header.classes), 'class name')}, but its network "
            f"has {counted(out.shape[1], 'logit')}."
        )


def _source(
    header: Header, shapes: Mapping[str, Shape], path: Path, model: nn.Module | None, *, trust_factory: bool
) -> tuple[nn.Module, Cost]:
    """The source network that a header describes, checked against the file, and the cost of running it."""
    if model is not None:
        return copy_network(model), _rehearse(header, copy_network(model, "meta"), shapes, path)
    spec = header.spec()
    if spec is None:
        raise CheckpointError(
            f"{path} does not say how to build its network, a {header.source_class}.",
            "Pass that network: perturbify.load(path, model=network).",
        )
    if spec.name.split(":")[0] in zoo.LIBRARIES:
        check_arguments(header, shapes, f"{path} contradicts itself")
        with no_larger_than(shapes, path):
            cost = _rehearse(header, skeleton(replace(spec, name=zoo.resolve(spec.name))), shapes, path)
            model = zoo.build(spec)
    elif trust_factory:
        model = zoo.build(spec)
        cost = _rehearse(header, copy_network(model, "meta"), shapes, path)
    else:
        raise CheckpointError(
            f"{path} needs to run {spec.name} to build its network.",
            "If you trust the file, pass trust_factory=True (--trust-factory), or pass the network yourself.",
        )
    kind, said = type(model), header.source_class
    package = kind.__module__.split(".")[0]
    if header.versions.get(package) == versions().get(package):
        same = said == f"{kind.__module__}.{kind.__qualname__}"
    else:  # libraries move their classes
        same = said.startswith(f"{package}.") and said.endswith(f".{kind.__qualname__}")
    if not same:
        raise CheckpointError(
            f"{path} holds a {said}, but {spec.name} is a {kind.__qualname__} here.", _written_with(header)
        )
    return model, cost


def _rehearse(header: Header, twin: nn.Module, shapes: Mapping[str, Shape], path: Path) -> Cost:
    """Checks a network on the meta device against the file, so that a false header costs nothing.

    Returns:
        Whether its computation is in proportion to its weights; unknown if it depends on values, which are missing
        here.

    Raises:
        CheckpointError: Their state dicts or sites differ, or it does not terminate.
    """
    if any(map(is_lazy, twin.parameters())):  # it has no shapes before its first forward pass
        return "unknown"
    theta = {f"{site['path']}.theta": torch.empty(site["theta_shape"], device="meta") for site in header.sites}
    theta |= {alias: theta[kept] for alias, kept in header.aliases.items() if kept in theta}
    layer = header.normalization()
    inside = {} if layer is None else {f"normalize.{key}": value for key, value in layer.state_dict().items()}
    check_fits(twin.state_dict() | theta | inside, header, shapes, path)
    args, kwargs = header.example("meta")
    settings, budget = _unmeasured(header.settings()), Budget()
    twin = _typed(twin.to("meta", DTYPES[header.dtype]), header)
    try:
        with budget:
            found = plan(twin, settings, example_input=args or kwargs)
    except Exception:
        found = None
    if budget.over:
        raise CheckpointError(f"{path} cannot be loaded: its network does not terminate on its inputs.")
    if found is None:
        return "unknown"
    difference = _difference(found, header)
    if difference:
        raise _others(difference, header, path)
    return "usual" if budget.used <= max(USUAL, PER_WEIGHT * sum(map(math.prod, shapes.values()))) else "large"


def _typed(network: nn.Module, header: Header) -> nn.Module:
    """The network with the tensors in ``header.dtypes`` cast to those dtypes."""
    state = network.state_dict(keep_vars=True)
    for key, kind in header.dtypes.items():
        if key in state:
            state[key].data = state[key].data.to(DTYPES[kind])
    return network


def _unmeasured(settings: PerturbConfig | None) -> PerturbConfig | None:
    """The settings without a measured θ₀, since the file holds θ."""
    if settings is None or relative_start(settings.theta_init) is None:
        return settings
    return replace(settings, theta_init=settings.theta_min or 1.0)


def _difference(found: Plan, header: Header) -> str:
    """The first difference between the sites of a network and those of a header; empty if there is none."""
    ours: list[Place] = sorted((s.path, s.name, s.map_shape, s.theta_shape) for s in found.sites)
    theirs: list[Place] = sorted(
        (s["path"], s["name"], tuple(s["map_shape"]), tuple(s["theta_shape"])) for s in header.sites
    )
    if ours == theirs:
        return ""
    counts = f"it has {len(theirs)} noise sites, but its network has {len(ours)} here"
    first = next(((a, b) for a, b in zip(ours, theirs, strict=False) if a != b), None)
    if first is None:
        return counts
    here, there = (f"{path} {list(maps)}, θ {list(theta)}" for path, _, maps, theta in first)
    return f"{counts}; the first that differs: {here} here, {there} in the file"


def _others(difference: str, header: Header, path: Path) -> CheckpointError:
    return CheckpointError(f"{path} does not fit its network: {difference}.", _written_with(header))


def _written_with(header: Header) -> str:
    return f"It was written with {', '.join(f'{k} {v}' for k, v in header.versions.items())}."


def _on(value: Any, device: torch.device) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.to(device), value)
