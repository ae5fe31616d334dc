"""Noise on the output or input of a convolution call, or on the output of the normalisation behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.noisy import CALLS, Proceed, Step, add_step
from perturbify.surgery.observe import Call, Observation
from perturbify.surgery.plan import Site, Skipped, Spot, choose
from perturbify.surgery.sites.counting import count_calls, count_on, noise_of, start_of
from perturbify.surgery.sites.inside import Inside, plain_attributes

FIXED_FILTER = "fixed filter, nothing learned"
"""Why a blur's convolution gets no noise."""

_WHY = {
    "output": "the result of the call is what the module returns",
    "input": "the call takes what the module takes",
    "inner": "the module's forward does more after the call, which torch's own _conv_forward makes",
    "graph": "the module's forward does more after the call, so noise is a node of its torch.fx graph",
}


@dataclass(frozen=True)
class Behind(Step):
    """Noise behind what a module's own forward returns, or before what it takes.

    Attributes:
        site: The module's path, for messages.
        numbers: The calls that have their own θ, by number in the network's forward.
        calls: Total number of calls; those without θ pass unchanged. 1: one θ serves every call.
        before: Whether to perturb the first input.
        around_what: ``"forward"``, or ``"_conv_forward"``, through which torch's convolutions make the call itself.
    """

    order = 3

    site: str
    numbers: frozenset[int] = frozenset((0,))
    calls: int = 1
    before: bool = False
    around_what: str = "forward"

    def around(
        self, module: nn.Module, name: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs the module with its noise.

        Raises:
            SurgeryError: There is no θ for this call.
        """
        number = 0
        if self.calls > 1:
            number = start_of(module, self.site)
            count_on(module, number + 1)
            if number < self.calls and number not in self.numbers:
                return proceed(args, kwargs)
        noise = noise_of(module, number, self.site)
        if not self.before:
            return noise(proceed(args, kwargs))
        if args:
            return proceed((noise(args[0]), *args[1:]), kwargs)
        first = next(iter(kwargs))
        return proceed(args, {**kwargs, first: noise(kwargs[first])})


@dataclass(frozen=True)
class Output:
    """Behind each convolution call."""

    before: ClassVar[bool] = False

    def find(
        self, network: nn.Module, seen: Mapping[str, Observation], config: PerturbConfig
    ) -> tuple[list[Site], list[Skipped], dict[str, float]]:
        """The convolution calls."""
        return choose({mode: [self._spot(c) for c in one.calls] for mode, one in seen.items()}, config)

    def insert(self, network: nn.Module, sites: list[Site], seen: Mapping[str, Observation]) -> None:
        """Noise behind (or before) the modules that return such calls' results, and inside the others."""
        insert_at_modules(network, sites, seen, _calls_made(seen), before=self.before)

    def _spot(self, call: Call) -> Spot:
        way = self._way(call)
        return Spot(
            call.owner,
            call.kind,
            self._shape(call),
            call.number,
            way,
            _WHY[way],
            reason="" if call.learned else FIXED_FILTER,
            batch_in_channels=call.batch_in_channels,
            spread=self._spread(call),
        )

    def _way(self, call: Call) -> str:
        return "output" if call.returned else "inner" if call.inner else "graph"

    def _shape(self, call: Call) -> tuple[int, ...]:
        return call.shape

    def _spread(self, call: Call) -> float:
        return call.spreads[1]


@dataclass(frozen=True)
class Input(Output):
    """Before each convolution call, for that call alone."""

    before = True

    def _way(self, call: Call) -> str:
        if call.takes_input and call.returned:
            return "input"
        return "inner" if call.inner else "graph"

    def _shape(self, call: Call) -> tuple[int, ...]:
        return call.input_shape

    def _spread(self, call: Call) -> float:
        return call.spreads[0]


@dataclass(frozen=True)
class Norm:
    """Behind the normalisation that takes a convolution's result."""

    def find(
        self, network: nn.Module, seen: Mapping[str, Observation], config: PerturbConfig
    ) -> tuple[list[Site], list[Skipped], dict[str, float]]:
        """The calls of such normalisations."""
        return choose({mode: [at_norm(c) for c in one.calls] for mode, one in seen.items()}, config)

    def insert(self, network: nn.Module, sites: list[Site], seen: Mapping[str, Observation]) -> None:
        """Noise behind the normalisations."""
        insert_at_modules(network, sites, seen, _runs(seen))


def at_norm(call: Call) -> Spot:
    """The normalisation that takes a convolution's result."""
    norm = call.norm
    if norm is None or not call.learned:
        reason = "no normalisation takes its output" if call.learned else FIXED_FILTER
        return Spot(call.owner, call.kind, (), call.number, "output", reason=reason)
    return Spot(norm.owner, norm.kind, norm.shape, norm.number, "output", _WHY["output"], spread=norm.spread)


def insert_at_modules(
    network: nn.Module,
    sites: list[Site],
    seen: Mapping[str, Observation],
    calls: Mapping[str, int],
    *,
    before: bool = False,
) -> None:
    """Adds to each owner of sites its step, and a counting step around an owner that is called several times.

    Args:
        network: The network.
        sites: All of one kind; their noise modules are in place.
        seen: A forward in each mode.
        calls: How many calls each owner makes in a forward.
        before: Whether to perturb the calls' input.
    """
    by_owner: dict[str, list[Site]] = {}
    for site in sites:
        by_owner.setdefault(site.owner, []).append(site)
    runs = _runs(seen)
    counted = []
    for path, its in by_owner.items():
        owner = network.get_submodule(path)
        numbers = frozenset(site.call for site in its)
        one_theta = any(site.calls > 1 for site in its)
        ways = {site.way for site in its}
        several = calls[path] > 1 and not one_theta
        if "graph" in ways:
            several = runs[path] > 1 and not one_theta
            names = plain_attributes(owner)
            step: Step = Inside(path, numbers, 0 if one_theta else calls[path], several, before, names)
        else:
            what = "_conv_forward" if "inner" in ways else "forward"
            step = Behind(path, numbers, calls[path] if several else 1, before, what)
        if several:
            counted.append(owner)
            vars(owner)[CALLS] = None
        add_step(owner, step)
    count_calls(network, counted)


def _runs(seen: Mapping[str, Observation]) -> Counter[str]:
    """How often each module's forward runs, in the mode in which it runs more often."""
    most: Counter[str] = Counter()
    for one in seen.values():
        most |= Counter(one.runs)
    return most


def _calls_made(seen: Mapping[str, Observation]) -> Counter[str]:
    """How many convolution calls each module makes, in the mode in which it makes more."""
    most: Counter[str] = Counter()
    for one in seen.values():
        most |= Counter(c.owner for c in one.calls)
    return most
