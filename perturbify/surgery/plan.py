"""What a surgery does: its sites, what it skips and why."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from perturbify.perturbation import child_name
from perturbify.surgery.config import Grain, PerturbConfig
from perturbify.text import counted, table, times

LARGE_THETA = 50_000_000
"""Entries of θ, together, from which a plan says that there is another grain."""


@dataclass(frozen=True)
class Site:
    """One θ and the call (or calls) of a module, or the weight, where it adds noise.

    Attributes:
        name: Name people read: the module's path, with ``#1`` for its second call, or with the weight's name.
        owner: Dotted path of the module that convolves (normalises, adds, holds the weight); θ is registered below it.
        call: Which of that module's calls, from 0.
        kind: Class of that module, or name of the function it calls.
        map_shape: Shape of what is perturbed: of a feature map for one image, (C, H, W).
        theta_shape: Shape of θ.
        calls: Number of calls in a forward that share this θ; 1 unless ``shared="module"``.
        way: How the noise gets in: ``"fx"``, a node of the graph; ``"hook"``, a hook of the module; ``"weight"``, in
            the weight's stead.
        modes: In which modes the call happens: ``"train"``, ``"eval"`` or ``"both"``.
        batch_in_channels: Whether the images stand side by side in the channels of the feature map.
        parameter: Name of the weight below ``owner``; empty for a feature map.
        holders: Path and name of everyone who holds that weight: several where it is tied.
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
        config: The settings it follows; None puts no noise in anywhere.
        sites: One entry for each θ, in order of execution.
        skipped: What might have noise and gets none.
        input_shapes: Shape of each tensor input for one image; an element-grained θ fits these only.
        opaque: Modules that torch.fx could not enter, and why; ``""`` is the network itself.
        hooked: Paths of the modules with a hook: all convolutions inside of opaque modules, also where no call was
            seen, as their calls must not go without noise unnoticed.
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

    def __str__(self) -> str:
        rows = [("site", "kind", "feature map", "θ", "entries", "way", "modes")]
        rows += [
            (s.name, s.kind, times(s.map_shape), times(s.theta_shape), f"{s.parameters:,}", s.way, s.modes)
            for s in self.sites
        ]
        lines = [table(rows), ""]
        lines.append(
            f"{counted(len(self.sites), 'site')}, {counted(self.parameters, 'entry')} of θ, {len(self.skipped)} skipped"
        )
        lines += [f"note: {self.advice}"] if self.advice else []
        lines += [f"not entered by torch.fx: {path or 'the network'}: {why}" for path, why in self.opaque.items()]
        lines += [f"skipped: {s.name} ({s.kind}): {s.reason}" for s in self.skipped]
        return "\n".join(lines)


def theta_shape(shape: tuple[int, ...], grain: Grain) -> tuple[int, ...]:
    """Shape of θ for a feature map (without its batch dimension) or a weight, channels first."""
    if grain == "element" or not shape:
        return shape
    channels = shape[0] if grain == "channel" else 1
    return (channels,) + (1,) * (len(shape) - 1)


def left_out(owner: str, config: PerturbConfig) -> str:
    """Why the settings leave a module out; empty where they do not."""
    if config.include and not any(fnmatchcase(owner, g) for g in config.include):
        return "not in include"
    if any(fnmatchcase(owner, g) for g in config.exclude):
        return "in exclude"
    return ""
