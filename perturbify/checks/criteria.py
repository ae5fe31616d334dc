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

TOLERANCE = 0.03
"""Differences of accuracy up to three points count as equal: a few hundred images cannot tell them apart."""

PRIOR = 5
"""Draws that an attack's mean over all images counts for where the worst attack of one image is chosen."""

STRONGER = ("margin", "eot-half", "eot", "pgd-long", "eot-long")
"""Attacks of ours that leave no more than PGD does, by id; of a user's own nobody knows that."""


class Found:
    """The results of one network, and what they are together.

    Args:
        results: Of a whole check.
        epsilon: Radius of the l∞ ball.
        network: Whose results these are.
    """

    def __init__(self, results: Sequence[Result], epsilon: float, network: str = ITSELF) -> None:
        own = [r for r in results if r.network == network]
        self._clean = next(r for r in own if r.role == "clean")
        self._all = [r for r in own if r.noise == self.clean.noise]
        self._within = [r for r in self._all if r.within(epsilon)]

    @property
    def clean(self) -> Result:
        """The images as they are, with the noise as the network has it."""
        return self._clean

    def of(self, *roles: Role) -> list[Result]:
        """The results of some roles, whatever their ball."""
        return [r for r in self._all if r.role in roles]

    def within(self, *roles: Role) -> list[Result]:
        """The attacks of some roles within the ball, on the network with its noise as it has it; all without a role."""
        return [r for r in self._within if not roles or r.role in roles]

    def worst(self, results: Sequence[Result]) -> Right | None:
        """The worst case of every image over some attacks, the clean image among them; None without attacks.

        Chosen by one half of the draws and scored by the other, and the other way round. An attack that was not run on
        an image is not chosen for it.

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
        """The attack that leaves the least, of those on all images: the one definition of the strongest."""
        whole = [r for r in self._within if r.n == self.clean.n and r.attacked == r.n]
        return min(whole, key=lambda r: r.accuracy, default=None)


def _choice(right: Right, ran: Right) -> Shares:
    """What to choose by, shape (attacks, n): shares of draws, drawn towards what each attack leaves on all its images.

    So a few draws that happen to agree do not prefer a weak attack to a strong one.
    """
    draws, shares = right.shape[2], right.mean(axis=2)
    left = (shares * ran).sum(axis=1, keepdims=True) / ran.sum(axis=1, keepdims=True)
    return np.where(ran, (draws * shares + PRIOR * left) / (draws + PRIOR), np.nan)


def difference(first: Right, second: Right, *, shared: bool) -> Figure:
    """The accuracy of some answers less that of others on the same images.

    Args:
        first: Shape (n, K), bool.
        second: Shape (m, L), bool; of both, the first images that both have.
        shared: Whether the images of a batch share their draws.
    """
    n = min(len(first), len(second))
    a, b = first[:n], second[:n]
    return Figure(float(a.mean() - b.mean()), difference_interval(a, b, shared=shared))


def criteria(
    results: Sequence[Result], *, epsilon: float, classes: int, liveness: Liveness, baseline: str | None = None
) -> tuple[Criterion, ...]:
    """Judges the attacks of a check.

    Args:
        results: Of all its cases.
        epsilon: Radius of the l∞ ball.
        classes: Number of classes.
        liveness: What was seen of the noise.
        baseline: Name of the network that this one is held against, if any.

    Returns:
        The criteria in the order of a report; what it takes to judge one may not have been measured.
    """
    found = Found(results, epsilon)
    judged = [
        _above_chance(found, classes),
        Criterion(
            "one step never beats many",
            "The gradient misleads: a step along it goes further than many do.",
            _against(found, "white box", found.within("one step")),
        ),
        Criterion(
            "black-box never beats white-box",
            "The gradient is masked: those who do not use it, or use another network's, do better.",
            _against(found, "white box", found.within("black box")),
        ),
        _stronger(found, epsilon),
        _unbounded(found, classes),
        _converged(found),
        _larger_epsilon(found),
    ]
    if liveness.sites:
        alive = tuple(Evidence(f, 1.0, (1.0, 1.0), 0.0, 0.0) for f in liveness.failures)
        alive = alive or (Evidence("sites of noise that are not alive", 0.0, (0.0, 0.0), 0.0, 0.0),)
        judged.insert(0, Criterion("the noise is alive", "The noise that the file promises is not drawn.", alive))
    if found.of("frozen"):
        judged.append(
            Criterion(
                "attacks on frozen noise do not beat those on fresh noise",
                "The fresh draws hide the gradient: fixing a few of them makes the better attack.",
                _against(found, "white box", found.within("frozen")),
            )
        )
    if baseline is not None:
        judged.append(_gain(found, Found(results, epsilon, baseline), baseline))
    return tuple(judged)


def called(result: Result) -> str:
    """An attack, and for one that transfers from what."""
    source = result.source or ("noise off" if result.on == "twin" and result.role == "black box" else None)
    return result.attack if source is None else f"{result.attack} ({source})"


def _against(found: Found, role: Role, others: Sequence[Result]) -> tuple[Evidence, ...]:
    """The worst case of all attacks of a role beside each other attack, which should leave no less."""
    worst = found.worst([r for r in found.within(role) if r not in others])
    if worst is None:
        return ()
    what = f"worst case of the {role} attacks"
    return tuple(_excess(f"accuracy in the {what}, less that under {called(r)}", found, worst, r.right) for r in others)


def _excess(statement: str, found: Found, first: Right, second: Right, *, tolerance: float = TOLERANCE) -> Evidence:
    """The accuracy of the first answers less that of the second, which should not be much above 0."""
    figure = difference(first, second, shared=found.clean.shared)
    return Evidence(statement, figure.value, figure.interval, limit=0.0, tolerance=tolerance)


def _above_chance(found: Found, classes: int) -> Criterion:
    chance = 1 / classes
    low, high = found.clean.interval
    below = Evidence(
        f"chance ({chance:.3g}) less the clean accuracy",
        chance - found.clean.accuracy,
        (chance - high, chance - low),
        limit=0.0,
        tolerance=0.0,
    )
    why = "An accuracy at the level of chance cannot be lowered by any attack."
    return Criterion("there is something to defend", why, (below,))


def _stronger(found: Found, epsilon: float) -> Criterion:
    """FGSM is weaker than PGD, where that can reach the end of the ball, and PGD than what spends more gradients."""
    whole = [r for r in found.within("one step", "white box") if r.n == r.attacked]
    plain = next((r for r in whole if r.id == "pgd"), None)
    evidence: list[Evidence] = []
    if plain is not None and _reaches(plain, epsilon):
        pairs = [(plain, r) for r in whole if r.id == "fgsm"] + [(r, plain) for r in whole if r.id in STRONGER]
        evidence = [
            _excess(f"accuracy under {called(strong)}, less that under {called(weak)}", found, strong.right, weak.right)
            for strong, weak in pairs
        ]
    why = "A stronger attack scores higher: the gradient leads it astray."
    return Criterion("a stronger attack never leaves more", why, tuple(evidence), core=False)


def _reaches(pgd: Result, epsilon: float) -> bool:
    return bool(pgd.settings.get("steps", 0) * pgd.settings.get("step_size", 0) >= epsilon)


def _unbounded(found: Found, classes: int) -> Criterion:
    evidence = tuple(
        Evidence(
            f"accuracy under {called(r)}, from the image itself",
            r.accuracy,
            mean_interval(r.right, shared=r.shared),
            1 / classes,
            TOLERANCE,
        )
        for r in found.of("unbounded")
    )
    why = "The attack does not work: free to change everything, it still leaves right answers."
    return Criterion("an unbounded attack reaches chance or below", why, evidence)


def _converged(found: Found) -> Criterion:
    """What much more effort takes off the worst case that was reached before it."""
    worst = found.worst(found.within("white box", "one step"))
    evidence = []
    for longer in found.within("longer"):
        with_it = found.worst([*found.within("white box", "one step"), longer])
        if worst is not None and with_it is not None:
            statement = f"what {called(longer)} takes off the worst case of the white box attacks"
            evidence.append(_excess(statement, found, worst[: longer.n], with_it[: longer.n]))
    why = "The attacks have not converged: going on lowers the accuracy."
    return Criterion("more steps and draws change nothing", why, tuple(evidence))


def _larger_epsilon(found: Found) -> Criterion:
    """On attacks of many steps; one step of a large ε may well go too far on any network."""
    lines: dict[str, list[tuple[float, Result]]] = {}
    for result in found.of("white box", "sweep"):
        for point in result.points:
            if point.figure == "epsilon" and result.gradient > 1:
                lines.setdefault(point.line, []).append((point.x, result))
    ordered = [[r for _, r in sorted(line, key=lambda p: p[0])] for line in lines.values()]
    evidence = tuple(
        _excess(
            f"accuracy under {called(larger)}, less that under {called(smaller)}", found, larger.right, smaller.right
        )
        for line in ordered
        for smaller, larger in pairwise(line)
    )
    why = "A larger ball contains the smaller one, so the attack fails in it."
    return Criterion("a larger ε never helps the model", why, evidence)


def gain(found: Found, baseline: Found, name: str) -> Figure | None:
    """What a network is ahead of a baseline, in the worst case of the attacks that both have met; None without any.

    Args:
        found: The results of the network.
        baseline: Those of the one that it is held against.
        name: The baseline's name, which its cases bear.
    """
    theirs = {f"{r.id} of {name}": r for r in found.within()}
    both = [(theirs[r.id], r) for r in baseline.within() if r.id in theirs]
    ours, others = found.worst([a for a, _ in both]), baseline.worst([b for _, b in both])
    if ours is None or others is None:
        return None
    return difference(ours, others, shared=found.clean.shared or baseline.clean.shared)


def _gain(found: Found, baseline: Found, name: str) -> Criterion:
    ahead = gain(found, baseline, name)
    statement = f"worst case of {name}, less that of this network, over the same attacks"
    evidence = (
        ()
        if ahead is None
        else (Evidence(statement, -ahead.value, (-ahead.interval[1], -ahead.interval[0]), 0.0, 0.0),)
    )
    why = "Whatever was added has bought no robustness that this check finds."
    return Criterion(f"it is more robust than {name}", why, evidence, core=False)
