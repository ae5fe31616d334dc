"""From results to criteria: can the figures be believed? (Athalye et al., 2018; Carlini et al., 2019.)"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from perturbify.checks.cases import ITSELF
from perturbify.checks.evidence import Criterion, Evidence
from perturbify.checks.liveness import Liveness
from perturbify.checks.results import Figure, Result, Role
from perturbify.checks.statistics import Right, Shares, difference_interval, mean_interval, worst_of
from perturbify.text import percent

TOLERANCE = 0.03
"""Differences of accuracy up to three points count as equal: a few hundred images cannot tell them apart."""

PRIOR = 5
"""Weight, in draws, of an attack's mean over all images when the worst attack of one image is chosen."""

STRONGER = ("margin", "eot-half", "eot", "pgd-long", "eot-long")
"""Ids of built-in attacks that leave no higher accuracy than PGD; of users' attacks that is unknown."""


class Found:
    """The results of one network, and what follows from them together.

    Args:
        results: All results of a check.
        epsilon: Radius of the l∞ ball.
        network: The network that they belong to.
    """

    def __init__(self, results: Sequence[Result], epsilon: float, network: str = ITSELF) -> None:
        own = [r for r in results if r.network == network]
        self._clean = next(r for r in own if r.role == "clean")
        self._all = [r for r in own if r.noise == self.clean.noise]
        self._within = [r for r in self._all if r.within(epsilon)]

    @property
    def clean(self) -> Result:
        """The clean images, with the network's own noise."""
        return self._clean

    def of(self, *roles: Role) -> list[Result]:
        """The results of some roles, in any ball."""
        return [r for r in self._all if r.role in roles]

    def within(self, *roles: Role) -> list[Result]:
        """The attacks of some roles within the ball, on the network with its own noise; without a role, all of them."""
        return [r for r in self._within if not roles or r.role in roles]

    def worst(self, results: Sequence[Result]) -> Right | None:
        """The worst case of every image over some attacks and the clean image; None without attacks.

        It is chosen on one half of the draws and scored on the other, and vice versa. An attack that was not run on an
        image is not chosen for it.

        Returns:
            Shape (n, K), bool.
        """
        if not results:
            return None
        every = [self.clean, *results]
        n, draws = self.clean.right.shape
        right = np.zeros((len(every), n, draws), bool)
        ran = np.zeros((len(every), n), bool)
        for i, result in enumerate(every):
            right[i, : result.n], ran[i, : result.n] = result.right, True
        if draws == 1:
            return worst_of(np.where(ran, right[:, :, 0], np.nan), list(right))
        half = draws // 2
        first = worst_of(_choice(right[:, :, half:], ran), list(right[:, :, :half]))
        second = worst_of(_choice(right[:, :, :half], ran), list(right[:, :, half:]))
        return np.concatenate([first, second], axis=1)

    def best_single(self) -> Result | None:
        """The attack on all images that leaves the lowest accuracy: the only definition of the strongest."""
        whole = [r for r in self._within if r.n == self.clean.n and r.attacked == r.n]
        return min(whole, key=lambda r: r.accuracy, default=None)


def _choice(right: Right, ran: Right) -> Shares:
    """What to choose by, shape (attacks, n): shares of draws, shrunk towards each attack's accuracy on all its images.

    So a few draws that happen to agree do not make a weak attack win over a strong one.
    """
    draws, shares = right.shape[2], right.mean(axis=2)
    left = (shares * ran).sum(axis=1, keepdims=True) / ran.sum(axis=1, keepdims=True)
    return np.where(ran, (draws * shares + PRIOR * left) / (draws + PRIOR), np.nan)


def difference(first: Right, second: Right, *, shared: bool, runs: tuple[int, int] = (1, 1)) -> Figure:
    """The accuracy of some answers minus that of others on the same images.

    Args:
        first: Shape (n, K), bool.
        second: Shape (m, L), bool; only the first images, which both have, are compared.
        shared: Whether the images of a batch share their draws.
        runs: As for :func:`~perturbify.checks.statistics.difference_interval`.
    """
    n = min(len(first), len(second))
    a, b = first[:n], second[:n]
    return Figure(float(a.mean() - b.mean()), difference_interval(a, b, shared=shared, runs=runs))


def criteria(
    results: Sequence[Result], *, epsilon: float, classes: int, liveness: Liveness, baseline: str | None = None
) -> tuple[Criterion, ...]:
    """Judges the attacks of a check.

    Args:
        results: Of all its cases.
        epsilon: Radius of the l∞ ball.
        classes: Number of classes.
        liveness: What was observed of the noise.
        baseline: Name of the network that this one is compared with, if any.

    Returns:
        The criteria in the order of a report; some may not have been measured.
    """
    found = Found(results, epsilon)
    judged = [
        _above_chance(found, classes),
        Criterion(
            "one step never beats many",
            "The gradient misleads: one step along it does more than many.",
            _against(found, "white box", found.within("one step")),
        ),
        Criterion(
            "black-box never beats white-box",
            "The gradient is masked: attacks without it, or with another network's, do better.",
            _against(found, "white box", found.within("black box")),
        ),
        _stronger(found, epsilon),
        _unbounded(found, classes),
        _converged(found),
        _larger_epsilon(found),
    ]
    if liveness.sites:
        alive = tuple(Evidence(f, 1.0, (1.0, 1.0), 0.0, 0.0) for f in liveness.failures)
        alive = alive or (Evidence("noise sites that are not alive", 0.0, (0.0, 0.0), 0.0, 0.0),)
        judged.insert(0, Criterion("the noise is alive", "The noise that the file promises is not there.", alive))
    if found.of("frozen"):
        judged.append(
            Criterion(
                "attacks on frozen noise do not beat those on fresh noise",
                "The fresh draws hide the gradient: an attack on a few fixed draws does better.",
                _against(found, "white box", found.within("frozen")),
            )
        )
    if baseline is not None:
        judged.append(_gain(found, Found(results, epsilon, baseline), baseline))
    return tuple(judged)


def called(result: Result) -> str:
    """An attack's name, and for a transfer attack its source."""
    source = result.source or ("noise off" if result.on == "twin" and result.role == "black box" else None)
    return result.attack if source is None else f"{result.attack} ({source})"


def _against(found: Found, role: Role, others: Sequence[Result]) -> tuple[Evidence, ...]:
    """The worst case over all attacks of a role minus each other attack, which should not do better."""
    worst = found.worst([r for r in found.within(role) if r not in others])
    if worst is None:
        return ()
    what = f"worst case over the {role.replace(' ', '-')} attacks"
    return tuple(_excess(f"{what} minus accuracy under {called(r)}", found, worst, r.right) for r in others)


def _excess(statement: str, found: Found, first: Right, second: Right, *, tolerance: float = TOLERANCE) -> Evidence:
    """The accuracy of the first answers minus that of the second, which should not be far above 0."""
    figure = difference(first, second, shared=found.clean.shared)
    return Evidence(statement, figure.value, figure.interval, limit=0.0, tolerance=tolerance)


def _above_chance(found: Found, classes: int) -> Criterion:
    chance = 1 / classes
    low, high = found.clean.interval
    below = Evidence(
        f"chance level ({percent(chance)}%) minus clean accuracy",
        chance - found.clean.accuracy,
        (chance - high, chance - low),
        limit=0.0,
        tolerance=0.0,
    )
    why = "No attack can lower an accuracy that is at chance level."
    return Criterion("clean accuracy is above chance", why, (below,))


def _stronger(found: Found, epsilon: float) -> Criterion:
    """FGSM is weaker than PGD, if PGD can reach the edge of the ball, and PGD than attacks with more gradients."""
    whole = [r for r in found.within("one step", "white box") if r.n == r.attacked]
    plain = next((r for r in whole if r.id == "pgd"), None)
    evidence: list[Evidence] = []
    if plain is not None and _reaches(plain, epsilon):
        pairs = [(plain, r) for r in whole if r.id == "fgsm"] + [(r, plain) for r in whole if r.id in STRONGER]
        evidence = [
            _excess(
                f"accuracy under {called(strong)} minus accuracy under {called(weak)}", found, strong.right, weak.right
            )
            for strong, weak in pairs
        ]
    why = "The gradient misleads: a stronger attack leaves a higher accuracy."
    return Criterion("a stronger attack never leaves a higher accuracy", why, tuple(evidence), core=False)


def _reaches(pgd: Result, epsilon: float) -> bool:
    return bool(pgd.settings.get("steps", 0) * pgd.settings.get("step_size", 0) >= epsilon)


def _unbounded(found: Found, classes: int) -> Criterion:
    evidence = tuple(
        Evidence(
            f"accuracy under {called(r)}, started at the image",
            r.accuracy,
            mean_interval(r.right, shared=r.shared),
            1 / classes,
            TOLERANCE,
        )
        for r in found.of("unbounded")
    )
    why = "The attack does not work: with no bound, it still leaves right answers."
    return Criterion("an unbounded attack reaches chance or below", why, evidence)


def _converged(found: Found) -> Criterion:
    """How far much more effort lowers the worst case."""
    worst = found.worst(found.within("white box", "one step"))
    evidence = []
    for longer in found.within("longer"):
        with_it = found.worst([*found.within("white box", "one step"), longer])
        if worst is not None and with_it is not None:
            statement = f"what {called(longer)} takes off the worst case over the white-box attacks"
            evidence.append(_excess(statement, found, worst[: longer.n], with_it[: longer.n]))
    why = "The attacks have not converged: more effort lowers the accuracy."
    return Criterion("more steps and draws change nothing", why, tuple(evidence))


def _larger_epsilon(found: Found) -> Criterion:
    """On iterative attacks only; one step of a large ε may go too far on any network."""
    lines: dict[str, list[tuple[float, Result]]] = {}
    for result in found.of("white box", "sweep"):
        for point in result.points:
            if point.figure == "epsilon" and result.gradient > 1:
                lines.setdefault(point.line, []).append((point.x, result))
    ordered = [[r for _, r in sorted(line, key=lambda p: p[0])] for line in lines.values()]
    evidence = tuple(
        _excess(
            f"accuracy under {called(larger)} minus accuracy under {called(smaller)}",
            found,
            larger.right,
            smaller.right,
        )
        for line in ordered
        for smaller, larger in pairwise(line)
    )
    why = "The attack fails: a larger ball contains the smaller one, so it should do at least as well."
    return Criterion("a larger ε never helps the model", why, evidence)


def gain(found: Found, baseline: Found, name: str) -> Figure | None:
    """The paired difference of a network and a baseline in the worst case over their common attacks; None without any.

    Args:
        found: The results of the network.
        baseline: The results of the baseline.
        name: The baseline's name, which is part of its cases' ids.
    """
    theirs = {f"{r.id} of {name}": r for r in found.within()}
    both = [(theirs[r.id], r) for r in baseline.within() if r.id in theirs]
    ours, others = found.worst([a for a, _ in both]), baseline.worst([b for _, b in both])
    if ours is None or others is None:
        return None
    return difference(ours, others, shared=found.clean.shared or baseline.clean.shared)


def _gain(found: Found, baseline: Found, name: str) -> Criterion:
    ahead = gain(found, baseline, name)
    statement = f"worst case of {name} minus worst case of this network, over the same attacks"
    evidence = (
        ()
        if ahead is None
        else (Evidence(statement, -ahead.value, (-ahead.interval[1], -ahead.interval[0]), 0.0, 0.0),)
    )
    why = "This check finds no robustness gained over the other network."
    return Criterion(f"it is more robust than {name}", why, evidence, core=False)
