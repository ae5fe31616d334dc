"""The sanity criteria for figures of robustness (Athalye et al., 2018; Carlini et al., 2019), each with its verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from perturbify.attacks import Pgd
from perturbify.checks.report import Criterion, Evidence
from perturbify.checks.statistics import Shares, difference_interval, mean_interval
from perturbify.checks.trials import ITSELF, Role, Trial

TOLERANCE = 0.02
"""Differences of accuracy up to two points count as equal: no check of a few hundred images can tell them apart."""


@dataclass(frozen=True)
class Outcome:
    """What a trial left.

    Attributes:
        trial: The attack.
        shares: For each of its images, which are the first ones of the check, the share of draws that were right.
    """

    trial: Trial
    shares: Shares

    @property
    def accuracy(self) -> float:
        """Mean probability of being right."""
        return float(self.shares.mean())


def criteria(outcomes: Sequence[Outcome], *, classes: int, rival: str | None = None) -> tuple[Criterion, ...]:
    """Judges a check.

    Args:
        outcomes: Of all its trials.
        classes: Number of classes.
        rival: Name of the network that this one is held against, if any.

    Returns:
        The criteria in the order of a report; what it takes to judge one may not have been measured.
    """
    found = _Outcomes(outcomes)
    judged = [
        _above_chance(found, classes),
        _criterion(
            "one step never beats many",
            "The gradient misleads: a step along it goes further than many do.",
            found.against_strongest("one step"),
        ),
        _criterion(
            "black-box never beats white-box",
            "The gradient is masked: those who do not use it, or use another network's, do better.",
            found.against_strongest("black box"),
        ),
        _unbounded(found, classes),
        _criterion(
            "random search does not beat gradients",
            "The gradient is worth less than luck: it is masked.",
            found.against_strongest("random"),
        ),
        _larger_epsilon(found),
        _longer(found),
    ]
    if found.noisy:
        judged += [
            _criterion(
                "EOT has reached its plateau",
                "More draws a step still lower the accuracy: the last figure is not the end.",
                _plateau(found.of("many steps", "averaged"), lambda attack: attack.draws),
            ),
            _criterion(
                "attacks on frozen noise do not beat those on fresh noise",
                "The fresh draws hide the gradient: fixing a few of them makes the better attack.",
                found.against_strongest("frozen"),
            ),
        ]
    if rival is not None:
        judged.append(_gain(found, _Outcomes(outcomes, rival), rival))
    return tuple(judged)


class _Outcomes:
    """The outcomes of one network, scored with the noise as the network has it."""

    def __init__(self, outcomes: Sequence[Outcome], network: str = ITSELF) -> None:
        own = [o for o in outcomes if o.trial.network == network]
        self.clean = next(o for o in own if o.trial.role == "clean")
        self.noisy = self.clean.trial.noisy
        self._all = [o for o in own if o.trial.noisy == self.noisy]

    def of(self, *roles: Role) -> list[Outcome]:
        return [o for o in self._all if o.trial.role in roles]

    @property
    def strongest(self) -> Outcome | None:
        """The attack of many steps along the network's own gradient that leaves the least, of those on all images."""
        white_box = self.of("many steps", "averaged", "longer", "longer and averaged", "restarts")
        return min((o for o in white_box if o.trial.images is None), key=lambda o: o.accuracy, default=None)

    def against_strongest(self, role: Role) -> list[Evidence]:
        """The strongest white-box attack beside each of another kind, which should leave no less."""
        strongest = self.strongest
        if strongest is None:
            return []
        return [_difference(strongest, other) for other in self.of(role) if other is not strongest]


def _above_chance(found: _Outcomes, classes: int) -> Criterion:
    chance = 1 / classes
    low, high = mean_interval(found.clean.shares)
    below = Evidence(
        f"chance ({chance:.3g}) less the clean accuracy",
        chance - found.clean.accuracy,
        (chance - high, chance - low),
        limit=0.0,
        tolerance=0.0,
    )
    why = "An accuracy at the level of chance cannot be lowered by any attack."
    return _criterion("there is something to defend", why, [below])


def _unbounded(found: _Outcomes, classes: int) -> Criterion:
    evidence = [
        Evidence(f"accuracy under {_called(o)}", o.accuracy, mean_interval(o.shares), 1 / classes, TOLERANCE)
        for o in found.of("unbounded")
    ]
    why = "The attack does not work: free to change everything, it still leaves right answers."
    return _criterion("an unbounded attack reaches chance or below", why, evidence)


def _larger_epsilon(found: _Outcomes) -> Criterion:
    """On attacks of many steps; one step of a large ε may well go too far on any network."""
    lines: dict[str, list[tuple[float, Outcome]]] = {}
    for outcome in found.of("many steps", "sweep"):
        attack = outcome.trial.attack
        if isinstance(attack, Pgd) and attack.steps > 1:
            for point in outcome.trial.points:
                if point.figure == "epsilon":
                    lines.setdefault(point.line, []).append((point.x, outcome))
    ordered = [[o for _, o in sorted(line, key=lambda p: p[0])] for line in lines.values()]
    evidence = [_difference(larger, smaller) for line in ordered for smaller, larger in pairwise(line)]
    why = "A larger ball contains the smaller one, so the attack fails in it."
    return _criterion("a larger ε never helps the model", why, evidence)


def _longer(found: _Outcomes) -> Criterion:
    plain = found.of("many steps")
    evidence = _plateau([*plain, *found.of("longer")], lambda attack: attack.steps)
    evidence += [_difference(once, often) for once in plain for often in found.of("restarts")]
    evidence += found.against_strongest("longer and averaged")
    why = "The attack has not converged: going on lowers the accuracy."
    return _criterion("more steps and restarts change nothing", why, evidence)


def _gain(found: _Outcomes, rival: _Outcomes, name: str) -> Criterion:
    ours, theirs = found.strongest, rival.strongest
    evidence = []
    if ours and theirs:
        for attack in (ours, *(o for o in found.of("longer and averaged") if o is not ours)):
            statement = f"{name} under {_called(theirs)}, less this network under {_called(attack)}"
            evidence.append(_difference(theirs, attack, statement, tolerance=0.0))
    why = "Whatever was added has bought no robustness that this check finds."
    return _criterion(f"it is more robust than {name}", why, evidence)


def _plateau(outcomes: Sequence[Outcome], effort: Callable[[Pgd], int]) -> list[Evidence]:
    """The attack of the second greatest effort beside that of the greatest, which should leave no less."""
    several = [(effort(o.trial.attack), o) for o in outcomes if isinstance(o.trial.attack, Pgd)]
    by_effort = [o for _, o in sorted(several, key=lambda pair: pair[0])]
    return [_difference(by_effort[-2], by_effort[-1])] if len(by_effort) > 1 else []


def _difference(first: Outcome, second: Outcome, statement: str = "", tolerance: float = TOLERANCE) -> Evidence:
    """The accuracy that the first attack leaves, less that of the second, which claims not to leave more."""
    n = min(len(first.shares), len(second.shares))  # the images that both have, which are the first ones
    a, b = first.shares[:n], second.shares[:n]
    return Evidence(
        statement or f"accuracy under {_called(first)}, less that under {_called(second)}",
        float((a - b).mean()),
        difference_interval(a, b),
        limit=0.0,
        tolerance=tolerance,
    )


def _called(outcome: Outcome) -> str:
    trial = outcome.trial
    usual = "noise on" if trial.noisy else "noise off"
    return trial.name if trial.crafted_on == usual else f"{trial.name} ({trial.crafted_on})"


def _criterion(name: str, why: str, evidence: Sequence[Evidence]) -> Criterion:
    return Criterion(name, why, tuple(evidence), "" if evidence else "Not measured.")
