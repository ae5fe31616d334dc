"""What a surgery does: its sites, what it skips and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from perturbify.errors import SurgeryError, TraceError
from perturbify.perturbation import child_name, site_name
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.sites import Call
from perturbify.surgery.trace import Convolution, Traced
from perturbify.text import table, times

LARGE_THETA = 50_000_000
"""Entries of θ, together, from which a plan says that there is another grain."""

FIXED_FILTER = "fixed filter, nothing learned"
"""Why a blur's convolution gets no noise."""


@dataclass(frozen=True)
class Site:
    """One θ and the convolution call (or calls) behind which it adds noise.

    Attributes:
        name: Name people read: the module's path, with ``#1`` for its second call.
        owner: Dotted path of the module that convolves; θ is registered below it.
        call: Which of that module's calls, from 0.
        kind: Class of the convolution module, or name of the function it calls.
        map_shape: Shape of the convolution's output for one image, (C, H, W).
        theta_shape: Shape of θ.
        calls: Number of calls in a forward that share this θ; 1 unless ``shared="module"``.
        way: How the noise gets in: ``"fx"``, a node of the graph, or ``"hook"``, a forward hook of the convolution.
        modes: In which modes the call happens: ``"train"``, ``"eval"`` or ``"both"``.
        batch_in_channels: Whether the images stand side by side in the channels of the convolution's output.
    """

    name: str
    owner: str
    call: int
    kind: str
    map_shape: tuple[int, ...]
    theta_shape: tuple[int, ...]
    calls: int = 1
    way: str = "fx"
    modes: str = "both"
    batch_in_channels: bool = False

    @property
    def path(self) -> str:
        """Dotted path of the noise module."""
        child = child_name(self.call)
        return f"{self.owner}.{child}" if self.owner else child

    @property
    def parameters(self) -> int:
        """Number of entries of θ."""
        return math.prod(self.theta_shape)


@dataclass(frozen=True)
class Skipped:
    """A convolution call that gets no noise, and why; ``modes`` as for a :class:`Site`."""

    name: str
    kind: str
    reason: str
    modes: str = "both"


@dataclass(frozen=True)
class Plan:
    """What :func:`perturbify.wrap` does to a network.

    Attributes:
        config: The settings it follows; None puts no noise in anywhere.
        sites: One entry for each θ, in order of execution.
        skipped: Convolution calls that get no noise.
        input_shapes: Shape of each tensor input for one image; an element-grained θ fits these only.
        opaque: Modules that torch.fx could not enter, and why; ``""`` is the network itself.
        hooked: Paths of the convolutions with a hook: all of those inside, also where no call was seen, as their
            calls must not go without noise unnoticed.
        modes: Modes in which the network took the example input and was compared.
    """

    config: PerturbConfig | None
    sites: tuple[Site, ...]
    skipped: tuple[Skipped, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    opaque: dict[str, str] = field(default_factory=dict)
    hooked: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("eval", "train")

    @property
    def parameters(self) -> int:
        """Number of entries of all θ together."""
        return sum(s.parameters for s in self.sites)

    @property
    def advice(self) -> str:
        """What to know before θ per element is made in this size; empty where there is nothing to say."""
        if self.config is None or self.config.grain != "element" or self.parameters < LARGE_THETA:
            return ""
        channels = sum(s.map_shape[0] for s in self.sites)
        return (
            f"θ per element has {self.parameters / 1e6:,.0f} M entries here ({self.parameters * 4 / 2**30:.1f} GiB in "
            f'float32) and fits one input size; grain="channel" has {channels:,} and takes any size.'
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self) | {"theta_parameters": self.parameters, "advice": self.advice}

    def __str__(self) -> str:
        rows = [("site", "kind", "feature map", "θ", "entries", "way", "modes")]
        rows += [
            (s.name, s.kind, times(s.map_shape), times(s.theta_shape), f"{s.parameters:,}", s.way, s.modes)
            for s in self.sites
        ]
        lines = [table(rows), ""]
        lines.append(f"{len(self.sites)} sites, {self.parameters:,} entries of θ, {len(self.skipped)} calls skipped")
        lines += [f"note: {self.advice}"] if self.advice else []
        lines += [f"not entered by torch.fx: {path or 'the network'}: {why}" for path, why in self.opaque.items()]
        lines += [f"skipped: {s.name} ({s.kind}): {s.reason}" for s in self.skipped]
        return "\n".join(lines)


@dataclass(frozen=True)
class NumberedCall:
    """A convolution call, and which of its module's calls it is."""

    convolution: Convolution
    number: int

    @property
    def call(self) -> Call:
        """The call itself."""
        return self.convolution.call


def number_calls(convolutions: Iterable[Convolution]) -> list[NumberedCall]:
    """Counts, for each call, how often its module was called before."""
    seen: dict[str, int] = {}
    numbered = []
    for one in convolutions:
        owner = one.call.owner
        numbered.append(NumberedCall(one, seen.get(owner, 0)))
        seen[owner] = seen.get(owner, 0) + 1
    return numbered


def make_plan(
    traced: Mapping[str, Traced],
    config: PerturbConfig | None,
    input_shapes: tuple[tuple[int, ...], ...],
    unseen: Collection[str],
) -> Plan:
    """Decides for every convolution call whether it gets noise, θ of which shape, and by which way.

    Args:
        traced: The network in mode ``"eval"`` and in mode ``"train"``.
        config: The settings; None puts no noise in anywhere.
        input_shapes: Shape of each tensor input for one image.
        unseen: Paths of the convolutions inside of modules that torch.fx could not enter.

    Raises:
        SurgeryError: A shared θ would need two shapes.
        TraceError: An ``F.conv*`` call inside of a module that torch.fx cannot enter.
    """
    sites: dict[tuple[str, int], Site] = {}
    skipped: dict[tuple[str, int], Skipped] = {}
    # A hook sees every call of its convolution, so one call that needs it decides for all.
    hooked = {c.call.owner for t in traced.values() for c in t.convolutions if c.node is None} | set(unseen)
    for mode, one in traced.items():
        counted: dict[tuple[str, int], int] = {}
        for c in number_calls(one.convolutions):
            owner = c.call.owner
            reason = _reason_to_skip(c, config)
            if config is None or reason:
                other = skipped.get((owner, c.number))
                modes = mode if other is None or other.modes == mode else "both"
                skipped[owner, c.number] = Skipped(site_name(owner, c.number), c.call.kind, reason, modes)
                continue
            if owner in hooked and c.call.functional:
                raise TraceError(
                    f"{owner or 'The network'} calls F.{c.call.kind} on a learned weight where torch.fx cannot go.",
                    "Make it an nn.Conv module, or leave it out with exclude=.",
                )
            key = site_key(c, config)
            counted[key] = counted.get(key, 0) + 1
            way = "hook" if owner in hooked else "fx"
            site = _site(key, c.call, config, counted[key], mode, way)
            known = sites.get(key)
            if known and known.theta_shape != site.theta_shape:
                raise SurgeryError(
                    f"{owner} is called with feature maps of {times(known.map_shape)} and of "
                    f"{times(site.map_shape)}, which one θ per element cannot serve.",
                    'Use shared="call", or grain="channel".',
                )
            sites[key] = _merge(known, site) if known else site
    opaque = {path: why for one in traced.values() for path, why in one.opaque.items()}
    return Plan(
        config,
        tuple(sites.values()),
        tuple(skipped.values()),
        input_shapes,
        opaque,
        hooked=() if config is None else tuple(p for p in unseen if not _left_out(p, config)),
        modes=tuple(traced),
    )


def site_key(call: NumberedCall, config: PerturbConfig) -> tuple[str, int]:
    """Which θ a call uses: its owner and the number of the call."""
    return call.call.owner, 0 if config.shared == "module" else call.number


def _site(key: tuple[str, int], call: Call, config: PerturbConfig, calls: int, mode: str, way: str) -> Site:
    owner, number = key
    return Site(
        name=site_name(owner, number),
        owner=owner,
        call=number,
        kind=call.kind,
        map_shape=call.shape,
        theta_shape=_theta_shape(call.shape, config),
        calls=calls,
        way=way,
        modes=mode,
        batch_in_channels=call.batch_in_channels,
    )


def _merge(known: Site, site: Site) -> Site:
    modes = known.modes if known.modes == site.modes else "both"
    return replace(known, calls=max(known.calls, site.calls), modes=modes)


def _theta_shape(map_shape: tuple[int, ...], config: PerturbConfig) -> tuple[int, ...]:
    if config.grain == "element":
        return map_shape
    channels = map_shape[0] if config.grain == "channel" else 1
    return (channels,) + (1,) * (len(map_shape) - 1)


def _reason_to_skip(c: NumberedCall, config: PerturbConfig | None) -> str:
    owner = c.call.owner
    if config is None:
        return "no noise asked for"
    if not c.convolution.learned:
        return FIXED_FILTER
    return _left_out(owner, config)


def _left_out(owner: str, config: PerturbConfig) -> str:
    if config.include and not any(fnmatchcase(owner, g) for g in config.include):
        return "not in include"
    if any(fnmatchcase(owner, g) for g in config.exclude):
        return "in exclude"
    return ""
