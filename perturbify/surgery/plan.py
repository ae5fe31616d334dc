"""What surgery does to a network: its sites, and what it skips and why."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import translate
from functools import lru_cache
from typing import Any

from perturbify import display
from perturbify.errors import SurgeryError
from perturbify.escape import terminal
from perturbify.perturbation import child_name, site_name
from perturbify.surgery.config import Grain, PerturbConfig
from perturbify.text import counted, noise_in_words, table, times

LARGE_THETA = 50_000_000
"""Total entries of θ from which a plan mentions that there is a coarser grain."""


@dataclass(frozen=True)
class Site:
    """One θ and the call (or calls) of a module, or the weight, where it adds noise.

    Attributes:
        name: Display name: the module's path, with ``#1`` for its second call, or with the weight's name.
        owner: Dotted path of the module that convolves (normalises, adds, holds the weight); θ is registered below it.
        call: Index among that module's calls, from 0.
        kind: Class of that module, or name of the function it calls.
        map_shape: Shape of what is perturbed: of a feature map for one image, (C, H, W).
        theta_shape: Shape of θ.
        calls: Number of calls in a forward that share this θ; 1 unless ``theta_per="module"``.
        way: Where the noise is added: ``"output"``, behind what the owner's forward returns; ``"input"``, before what
            it takes; ``"inner"``, at its ``_conv_forward``; ``"graph"``, at a node of the owner's own torch.fx graph;
            ``"weight"``, on the weight itself.
        why: Why it is added there.
        modes: In which modes the call happens: ``"train"``, ``"eval"`` or ``"both"``.
        batch_in_channels: Whether the images are side by side in the channels of the feature map.
        node: For an addition, its index among the additions in its owner's graph.
        parameter: Name of the weight below ``owner``; empty for a feature map.
        holders: Path and name of every holder of that weight: several if it is tied.
    """

    name: str
    owner: str
    call: int
    kind: str
    map_shape: tuple[int, ...]
    theta_shape: tuple[int, ...]
    calls: int = 1
    way: str = "output"
    why: str = ""
    modes: str = "both"
    batch_in_channels: bool = False
    node: int = 0
    parameter: str = ""
    holders: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        """Dotted path of the noise module."""
        child = child_name(self.parameter or self.call)
        return f"{self.owner}.{child}" if self.owner else child

    def held_by(self, owner: str, name: str) -> Site:
        """The same site with one more holder of its weight."""
        return replace(self, holders=(*self.holders, (owner, name)))

    @property
    def parameters(self) -> int:
        """Number of entries of θ."""
        return math.prod(self.theta_shape)


@dataclass(frozen=True)
class Skipped:
    """A call or a weight that gets no noise, and why; ``modes`` as for a :class:`Site`."""

    name: str
    kind: str
    reason: str
    modes: str = "both"


@dataclass(frozen=True)
class Plan:
    """What :func:`perturbify.wrap` does to a network.

    Attributes:
        config: The settings it follows; None adds no noise.
        sites: One entry for each θ, in order of execution.
        skipped: What could have noise but gets none.
        input_shapes: Shape of each tensor input for one image; an element-grained θ fits these only.
        modes: Modes in which the network accepted the example input and was verified.
        unseen: Paths of the convolutions that the example input did not reach: with the noise on, they raise.
        notes: Further remarks.
    """

    config: PerturbConfig | None
    sites: tuple[Site, ...]
    skipped: tuple[Skipped, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    modes: tuple[str, ...] = ("eval", "train")
    unseen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of entries of all θ together."""
        return sum(s.parameters for s in self.sites)

    @property
    def advice(self) -> str:
        """A remark on the size of θ per element; empty if there is nothing to say."""
        if self.config is None or not self.config.fixes_size or self.parameters < LARGE_THETA:
            return ""
        channels = sum(s.map_shape[0] for s in self.sites)
        return (
            f"θ per element has {self.parameters / 1e6:,.0f} M entries here ({self.parameters * 4 / 2**30:.1f} GiB in "
            f'float32) and fits one input size; grain="channel" has {channels:,} and takes any size.'
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self) | {"theta_parameters": self.parameters, "advice": self.advice}

    def __repr__(self) -> str:
        ends = [(name, self.sites[at]) for name, at in (("first", 0), ("last", -1))] if self.sites else []
        sites = [(name, f"{s.name}, {s.kind}, feature map {times(s.map_shape)}") for name, s in ends]
        return display.lines(f"Plan: {self._counts}", [*self._facts, *sites], "print(plan) lists all")

    def _repr_html_(self) -> str:
        rows = [(s.name, s.kind, times(s.map_shape), times(s.theta_shape), s.way) for s in self.sites]
        head = ("site", "kind", "feature map", "θ", "way")
        return display.page(f"Plan: {self._counts}", self._facts, head, rows, "print(plan) lists all.")

    @property
    def _counts(self) -> str:
        sites, entries = counted(len(self.sites), "site"), counted(self.parameters, "entry")
        return f"{sites}, {entries} of θ, {len(self.skipped):,} skipped"

    @property
    def _facts(self) -> list[display.Fact]:
        noise = noise_in_words(None if self.config is None else asdict(self.config))
        skipped, unseen = [f"{s.name}: {s.reason}" for s in self.skipped], self.unseen
        return [
            ("noise", noise),
            ("input", ", ".join(map(times, self.input_shapes))),
            ("skipped", display.some(skipped, len(skipped), 1)),
            ("not reached", display.some(unseen, len(unseen), 2)),
            ("note", self.advice),
            ("note", display.some(self.notes, len(self.notes), 1)),
        ]

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int | None = None) -> str:
        """The plan for people: a table of its sites, and what there is to say of it.

        Args:
            width: Columns of the terminal, as for :func:`perturbify.text.table`; None: as wide as it is.
        """
        rows = [("site", "kind", "feature map", "θ", "entries", "way", "modes")]
        rows += [
            (s.name, s.kind, times(s.map_shape), times(s.theta_shape), f"{s.parameters:,}", s.way, s.modes)
            for s in self.sites
        ]
        lines = [table(rows, width, ("modes", "way", "entries", "kind")), ""]
        lines.append(self._counts)
        said = [f"{way}: {why}" for way, why in dict.fromkeys((s.way, s.why) for s in self.sites if s.why)]
        said += [f"note: {note}" for note in (self.advice, *self.notes) if note]
        said += [f"skipped: {s.name} ({s.kind}): {s.reason}" for s in self.skipped]
        said += [f"not reached by the example input: {path}; with the noise on, it raises" for path in self.unseen]
        return "\n".join([*lines, *map(terminal, said)])


@dataclass(frozen=True)
class Spot:
    """A call that may get noise, in one mode.

    Attributes:
        owner: Dotted path of the module that convolves, normalises or adds.
        kind: Its class, or the function it calls.
        shape: Shape of the feature map for one image.
        number: Index among the owner's calls, from 0.
        way: As in a :class:`Site`.
        why: As in a :class:`Site`.
        reason: Why it gets no noise, whatever the settings; empty if it may.
        batch_in_channels: Whether the images are side by side in its channels.
        node: As in a :class:`Site`.
        spread: Standard deviation of the feature map; NaN if it was not measured.
    """

    owner: str
    kind: str
    shape: tuple[int, ...]
    number: int
    way: str
    why: str = ""
    reason: str = ""
    batch_in_channels: bool = False
    node: int = 0
    spread: float = math.nan


def choose(
    spots: Mapping[str, Sequence[Spot]], config: PerturbConfig
) -> tuple[list[Site], list[Skipped], dict[str, float]]:
    """Decides for every call whether it gets noise, and the shape of θ.

    Args:
        spots: The calls of this kind, by mode, in order of execution.
        config: The settings.

    Returns:
        The sites, in order of execution; what is skipped, with the reason; and by site name the spread of what is
        perturbed, measured in eval mode if the site is called in it (for several calls, the root of their mean
        variance).

    Raises:
        SurgeryError: A shared θ would need two shapes.
    """
    sites: dict[tuple[str, int], Site] = {}
    skipped: dict[tuple[str, int], Skipped] = {}
    spreads: dict[str, list[float]] = {}
    every = (s for found in spots.values() for s in found if not (s.reason or left_out(s.owner, config)))
    first = next(every, None)
    for mode, found in spots.items():
        calls: dict[tuple[str, int], int] = {}
        for spot in found:
            reason = spot.reason or left_out(spot.owner, config)
            if not reason and config.extent == "first" and first is not None:
                reason = "" if (spot.owner, spot.number) == (first.owner, first.number) else "not the first"
            if reason:
                at = spot.owner, spot.number
                modes = mode if at not in skipped or skipped[at].modes == mode else "both"
                skipped[at] = Skipped(site_name(*at), spot.kind, reason, modes)
                continue
            key = spot.owner, 0 if config.theta_per == "module" and config.extent == "all" else spot.number
            calls[key] = calls.get(key, 0) + 1
            site = _site(key, spot, config, calls[key], mode)
            known = sites.get(key)
            if known and known.theta_shape != site.theta_shape:
                raise SurgeryError(
                    f"{spot.owner} is called with feature maps of {times(known.map_shape)} and of "
                    f"{times(site.map_shape)}, which one θ per element cannot fit.",
                    'Use theta_per="call", or grain="channel".',
                )
            if known is None or known.modes == mode:  # not what eval mode has measured already
                spreads.setdefault(site.name, []).append(spot.spread)
            sites[key] = _merge(known, site) if known else site
    measured = {name: math.sqrt(sum(v * v for v in seen) / len(seen)) for name, seen in spreads.items()}
    return list(sites.values()), list(skipped.values()), measured


def _site(key: tuple[str, int], spot: Spot, config: PerturbConfig, calls: int, mode: str) -> Site:
    owner, number = key
    return Site(
        name=site_name(owner, number),
        owner=owner,
        call=number,
        kind=spot.kind,
        map_shape=spot.shape,
        theta_shape=theta_shape(spot.shape, config.grain),
        calls=calls,
        way=spot.way,
        why=spot.why,
        modes=mode,
        batch_in_channels=spot.batch_in_channels,
        node=spot.node,
    )


def _merge(known: Site, site: Site) -> Site:
    modes = known.modes if known.modes == site.modes else "both"
    way, why = (site.way, site.why) if site.way in ("inner", "graph") else (known.way, known.why)
    return replace(known, calls=max(known.calls, site.calls), modes=modes, way=way, why=why)


def theta_shape(shape: tuple[int, ...], grain: Grain) -> tuple[int, ...]:
    """Shape of θ for a feature map (without its batch dimension) or a weight, channels first."""
    if grain == "element" or not shape:
        return shape
    channels = shape[0] if grain == "channel" else 1
    return (channels,) + (1,) * (len(shape) - 1)


def left_out(owner: str, config: PerturbConfig) -> str:
    """Why the settings leave a module out; empty if they do not."""
    if config.include and not _any_of(config.include).match(owner):
        return "not in include"
    if config.exclude and _any_of(config.exclude).match(owner):
        return "in exclude"
    return ""


@lru_cache(maxsize=16)
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, globs)))
