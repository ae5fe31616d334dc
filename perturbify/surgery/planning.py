"""Which calls get noise, behind or before which nodes of the graph, and θ of which shape."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import fx

from perturbify.errors import SurgeryError, TraceError
from perturbify.perturbation import site_name
from perturbify.surgery.config import PerturbConfig, SiteKind
from perturbify.surgery.plan import Plan, Site, Skipped, left_out, theta_shape
from perturbify.surgery.trace import Convolution, Traced
from perturbify.text import times

FIXED_FILTER = "fixed filter, nothing learned"
"""Why a blur's convolution gets no noise."""


@dataclass(frozen=True)
class Spot:
    """A feature map that noise may go on, in one mode.

    Attributes:
        owner: Dotted path of the module that convolves, normalises or adds.
        kind: Its class, or the function it calls.
        shape: Of the feature map for one image.
        node: The node of the graph that gives the map, or (of site ``"input"``) takes it; None where there is none.
        reason: Why it gets no noise, whatever the settings leave out; empty where it may.
        functional: Whether it belongs to a call of ``F.conv*``.
        batch_in_channels: Whether the images stand side by side in its channels.
        number: Which of the owner's calls, from 0.
    """

    owner: str
    kind: str
    shape: tuple[int, ...]
    node: fx.Node | None
    reason: str = ""
    functional: bool = False
    batch_in_channels: bool = False
    number: int = 0


def spots(traced: Traced, site: SiteKind) -> list[Spot]:
    """The feature maps of one kind in a forward, in order of execution."""
    if site in ("output", "input"):
        found = [_at_convolution(c, site) for c in traced.convolutions]
    else:
        found = [_at_norm(c) for c in traced.convolutions if site == "norm" or c is traced.convolutions[0]]
        found += [Spot(a.owner, "addition", a.shape, a.node) for a in traced.additions if site == "addition"]
    return _numbered(found)


def make_plan(
    traced: Mapping[str, Traced],
    config: PerturbConfig | None,
    input_shapes: tuple[tuple[int, ...], ...],
    unseen: Collection[str],
) -> Plan:
    """Decides for every feature map of the kind in question whether it gets noise, θ of which shape, and by which way.

    Args:
        traced: The network in mode ``"eval"`` and in mode ``"train"``.
        config: The settings; None puts no noise in anywhere.
        input_shapes: Shape of each tensor input for one image.
        unseen: Paths of the convolutions inside of modules that torch.fx could not enter.

    Raises:
        SurgeryError: A shared θ would need two shapes.
        TraceError: An ``F.conv*`` call inside of a module that torch.fx cannot enter.
    """
    kind: SiteKind = "output" if config is None else config.site
    by_mode = {mode: spots(one, kind) for mode, one in traced.items()}
    at_convolutions = kind in ("output", "input")
    # A hook sees every call of its module, so one call that needs it decides for all.
    hooked = {s.owner for found in by_mode.values() for s in found if s.node is None and s.shape}
    hooked |= set(unseen) if at_convolutions else set()
    sites: dict[tuple[str, int], Site] = {}
    skipped: dict[tuple[str, int], Skipped] = {}
    for mode, found in by_mode.items():
        counted: dict[tuple[str, int], int] = {}
        for spot in found:
            reason = _reason_to_skip(spot, config, by_mode)
            if config is None or reason:
                other = skipped.get((spot.owner, spot.number))
                modes = mode if other is None or other.modes == mode else "both"
                name = site_name(spot.owner, spot.number)
                skipped[spot.owner, spot.number] = Skipped(name, spot.kind, reason, modes)
                continue
            if spot.owner in hooked and spot.functional:
                raise TraceError(
                    f"{spot.owner or 'The network'} calls F.{spot.kind} on a learned weight where torch.fx cannot go.",
                    "Make it an nn.Conv module, or leave it out with exclude=.",
                )
            key = site_key(spot, config)
            counted[key] = counted.get(key, 0) + 1
            site = _site(key, spot, config, counted[key], mode, "hook" if spot.owner in hooked else "fx")
            known = sites.get(key)
            if known and known.theta_shape != site.theta_shape:
                raise SurgeryError(
                    f"{spot.owner} is called with feature maps of {times(known.map_shape)} and of "
                    f"{times(site.map_shape)}, which one θ per element cannot serve.",
                    'Use shared="call", or grain="channel".',
                )
            sites[key] = _merge(known, site) if known else site
    opaque = {path: why for one in traced.values() for path, why in one.opaque.items()}
    with_hooks = unseen if at_convolutions else dict.fromkeys(s.owner for s in sites.values() if s.way == "hook")
    one_alone = config is not None and config.extent == "first"
    return Plan(
        config,
        tuple(sites.values()),
        tuple(skipped.values()),
        input_shapes,
        opaque,
        hooked=()
        if config is None
        else tuple(p for p in with_hooks if not left_out(p, config) and (not one_alone or (p, 0) in sites)),
        modes=tuple(traced),
    )


def site_key(spot: Spot, config: PerturbConfig) -> tuple[str, int]:
    """Which θ a feature map uses: its owner and the number of the call."""
    return spot.owner, 0 if config.shared == "module" and config.extent == "all" else spot.number


def _at_convolution(c: Convolution, site: SiteKind) -> Spot:
    shape = c.call.shape if site == "output" else c.call.input_shape
    reason = FIXED_FILTER if not c.learned else "" if shape else "its input was not given by position"
    return Spot(c.call.owner, c.call.kind, shape, c.node, reason, c.call.functional, c.call.batch_in_channels)


def _at_norm(c: Convolution) -> Spot:
    norm = c.call.norm
    if norm is None or not c.learned:
        reason = FIXED_FILTER if not c.learned else "no normalisation takes its output"
        return Spot(c.call.owner, c.call.kind, (), None, reason)
    users = () if c.node is None else c.node.users
    node = next((u for u in users if u.op == "call_module" and u.target == norm.owner), None)
    return Spot(norm.owner, norm.kind, norm.shape, node)


def _numbered(found: Iterable[Spot]) -> list[Spot]:
    """Counts, for each feature map, how many its owner had before."""
    seen: dict[str, int] = {}
    numbered = []
    for one in found:
        numbered.append(replace(one, number=seen.get(one.owner, 0)))
        seen[one.owner] = seen.get(one.owner, 0) + 1
    return numbered


def _is_first(spot: Spot, by_mode: Mapping[str, list[Spot]], config: PerturbConfig) -> bool:
    """Whether it is the first of all feature maps that may have noise, in the first mode that has one."""
    may = (s for found in by_mode.values() for s in found if not (s.reason or left_out(s.owner, config)))
    first = next(may, None)
    return first is not None and (spot.owner, spot.number) == (first.owner, first.number)


def _site(key: tuple[str, int], spot: Spot, config: PerturbConfig, calls: int, mode: str, way: str) -> Site:
    owner, number = key
    return Site(
        name=site_name(owner, number),
        owner=owner,
        call=number,
        kind=spot.kind,
        map_shape=spot.shape,
        theta_shape=theta_shape(spot.shape, config.grain),
        calls=calls,
        way=way,
        modes=mode,
        batch_in_channels=spot.batch_in_channels,
    )


def _merge(known: Site, site: Site) -> Site:
    modes = known.modes if known.modes == site.modes else "both"
    return replace(known, calls=max(known.calls, site.calls), modes=modes)


def _reason_to_skip(spot: Spot, config: PerturbConfig | None, by_mode: Mapping[str, list[Spot]]) -> str:
    if config is None:
        return "no noise asked for"
    if spot.reason:
        return spot.reason
    why = left_out(spot.owner, config)
    if config.extent == "first" and not why and not _is_first(spot, by_mode, config):
        return "not the first"
    return why
