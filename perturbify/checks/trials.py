"""The list of attacks that follows from a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from perturbify.attacks import Attack, FewPixel, Pgd, RandomSearch
from perturbify.attacks.libraries import Apgd, CarliniWagner, HopSkipJump, Square
from perturbify.checks.plan import CheckPlan
from perturbify.checks.report import Point
from perturbify.text import fraction

Role = Literal[
    "clean",
    "one step",
    "many steps",
    "averaged",
    "longer",
    "longer and averaged",
    "restarts",
    "frozen",
    "black box",
    "random",
    "unbounded",
    "sweep",
    "other",
]
"""What a trial is for, as the criteria ask for it."""

ITSELF = "itself"
RESERVED = (ITSELF, "noise on", "noise off", "frozen noise")
"""What no other network may be called."""

_SILENT = {"noise on": "noise off"}


@dataclass(frozen=True)
class Trial:
    """One attack: what is attacked, and what is scored how.

    Attributes:
        name: The attack's name.
        role: What it is for.
        attack: None for clean images.
        crafted_on: ``"noise on"``, ``"noise off"``, ``"frozen noise"``, or another network's name.
        noisy: Whether the noise is on while scoring.
        images: Images at most; None takes all of the check.
        network: What is scored: ``"itself"``, or the name of a network that it is held against.
        points: Where it stands in the plots.
    """

    name: str
    role: Role
    attack: Attack | None
    crafted_on: str = "noise on"
    noisy: bool = True
    images: int | None = None
    network: str = ITSELF
    points: tuple[Point, ...] = ()

    @property
    def key(self) -> str:
        """What tells it from all others of a check."""
        return f"{self.name} | {self.crafted_on} | {self.network}, noise {'on' if self.noisy else 'off'}"


@dataclass(frozen=True)
class Subject:
    """What the list of attacks depends on, beside the plan.

    Attributes:
        noisy: Whether the network is random.
        switchable: Whether all its randomness is ours, to be turned off and frozen.
        per_image: Whether each image of a batch can have draws of its own.
        classes: Number of classes.
        sources: Names of other networks to transfer from.
        rival: Name of the network that it is held against, if any.
        rival_noisy: Whether that one is random.
    """

    noisy: bool
    switchable: bool
    per_image: bool
    classes: int
    sources: tuple[str, ...] = ()
    rival: str | None = None
    rival_noisy: bool = False


def trials(plan: CheckPlan, subject: Subject) -> tuple[Trial, ...]:
    """The attacks of a plan on a network.

    A network without noise has no averages, no frozen noise, and no noise to turn off.
    """
    found = [Trial("clean", "clean", None)]
    if subject.switchable:
        found.append(Trial("clean", "other", None, crafted_on="noise off", noisy=False))
    for family in dict.fromkeys(plan.attacks):
        found += _FAMILIES[family](plan, subject)
    if not subject.noisy:
        found = [replace(t, crafted_on=_SILENT.get(t.crafted_on, t.crafted_on), noisy=False) for t in found]
    if subject.rival is not None:
        found += _rival(plan, subject.rival, noisy=subject.rival_noisy)
    return tuple({t.key: t for t in found}.values())


def _fgsm(plan: CheckPlan, _: Subject) -> Iterator[Trial]:
    attack = Pgd(plan.epsilon, plan.epsilon, 1, random_start=False)
    yield Trial("FGSM", "one step", attack, points=(Point("epsilon", "FGSM", plan.epsilon),))


def _pgd(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    attack = _projected(plan)
    name = f"PGD-{plan.steps}"
    points = [Point("epsilon", name, plan.epsilon), Point("steps", "PGD", plan.steps)]
    if subject.noisy:
        points.append(Point("draws", f"EOT-PGD-{plan.steps}", 1))
    yield Trial(name, "many steps", attack, points=tuple(points))
    if subject.switchable:
        yield Trial(name, "other", attack, crafted_on="noise off", noisy=False)


def _eot(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    if subject.noisy:
        at_once = plan.at_once if subject.per_image and plan.noise == "fresh" else 1
        for draws in halved(plan.eot_draws):
            point = Point("draws", f"EOT-PGD-{plan.steps}", draws)
            attack = replace(_projected(plan), draws=draws, at_once=at_once)
            yield Trial(f"EOT-PGD-{plan.steps}, {draws} draws", "averaged", attack, points=(point,))


def _frozen(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    if subject.switchable:
        yield Trial(f"PGD-{plan.steps}", "frozen", _projected(plan), crafted_on="frozen noise", images=plan.sanity)


def _transfer(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    for source in (*(["noise off"] if subject.switchable else []), *subject.sources):
        yield Trial(f"PGD-{plan.steps} transfer", "black box", _projected(plan), crafted_on=source)


def _random(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    draws = plan.frozen_draws if subject.noisy else 1  # by one draw, the luckiest point would win
    attack = RandomSearch(plan.epsilon, plan.tries, draws)
    yield Trial(f"random search, {plan.tries} points", "random", attack, images=plan.sanity)


def _unbounded(plan: CheckPlan, _: Subject) -> Iterator[Trial]:
    yield Trial("PGD-20, unbounded", "unbounded", Pgd(1.0, 0.1, 20), images=plan.sanity)


def _sweep(plan: CheckPlan, _: Subject) -> Iterator[Trial]:
    for epsilon in dict.fromkeys(min(1.0, multiple * plan.epsilon) for multiple in plan.sweep):
        at, name = f"ε = {fraction(epsilon)}", f"PGD-{plan.steps}"
        one = Pgd(epsilon, epsilon, 1, random_start=False)
        points = (Point("epsilon", "FGSM", epsilon),)
        yield Trial(f"FGSM, {at}", "sweep", one, images=plan.sanity, points=points)
        # Steps that can reach the end of the ball from anywhere in it.
        many = replace(_projected(plan), epsilon=epsilon, step_size=max(plan.step_size, 2.5 * epsilon / plan.steps))
        points = (Point("epsilon", name, epsilon),)
        yield Trial(f"{name}, {at}", "sweep", many, images=plan.sanity, points=points)


def _long(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    for steps in halved(plan.long_steps):
        attack = replace(_projected(plan), steps=steps)
        yield Trial(f"PGD-{steps}", "longer", attack, points=(Point("steps", "PGD", steps),))
    if subject.noisy:
        yield _longest(plan)


def _longest(plan: CheckPlan) -> Trial:
    """Steps and draws may each have reached a plateau that both together leave."""
    draws = halved(plan.eot_draws)[0]
    both = replace(_projected(plan), steps=plan.long_steps, draws=draws)
    return Trial(f"EOT-PGD-{plan.long_steps}, {draws} draws", "longer and averaged", both, images=plan.longest)


def _restarts(plan: CheckPlan, _: Subject) -> Iterator[Trial]:
    attack = replace(_projected(plan), restarts=plan.restarts)
    yield Trial(f"PGD-{plan.steps}, {plan.restarts} restarts", "restarts", attack)


def _l2(plan: CheckPlan, _: Subject) -> Iterator[Trial]:
    steps = plan.long_steps
    yield Trial(f"PGD-{steps}, l2 ≤ 0.5", "other", Pgd(0.5, 0.1, steps, norm="l2"))


def _few_pixel(plan: CheckPlan, _: Subject) -> Iterator[Trial]:
    for pixels in (1, 2, 3):
        name = f"{pixels} pixel{'s' if pixels > 1 else ''}"
        yield Trial(name, "other", FewPixel(pixels, plan.population, plan.generations), images=plan.few)


def _apgd(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    draws = 20 if subject.noisy else 1
    yield Trial("APGD-CE", "averaged", Apgd("ce", plan.epsilon, draws=draws), images=plan.few)
    if subject.classes > 2:
        yield Trial("APGD-DLR", "averaged", Apgd("dlr", plan.epsilon, draws=draws), images=plan.few)


def _square(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    attack = Square(plan.epsilon, plan.square_queries, draws=10 if subject.noisy else 1)
    yield Trial(f"Square, {plan.square_queries} queries", "black box", attack, images=plan.few)


def _carlini_wagner(plan: CheckPlan, _: Subject) -> Iterator[Trial]:
    for confidence in plan.confidences:
        yield Trial(f"C&W, κ = {confidence:g}", "other", CarliniWagner(confidence), images=plan.few)


def _hop_skip_jump(plan: CheckPlan, subject: Subject) -> Iterator[Trial]:
    yield Trial("HopSkipJump", "other", HopSkipJump(draws=10 if subject.noisy else 1), images=plan.few)


def _rival(plan: CheckPlan, name: str, *, noisy: bool) -> Iterator[Trial]:
    """The clean images and the strongest of our own attacks, on the network that this one is held against."""
    draws = plan.eot_draws if noisy else 1
    attack = replace(_projected(plan), draws=draws)
    on = "noise on" if noisy else "noise off"
    yield Trial("clean", "clean", None, crafted_on=on, noisy=noisy, network=name)
    called = f"EOT-PGD-{plan.steps}, {draws} draws" if noisy else f"PGD-{plan.steps}"
    yield Trial(called, "averaged" if noisy else "many steps", attack, crafted_on=on, noisy=noisy, network=name)
    for steps in halved(plan.long_steps):
        longer = replace(_projected(plan), steps=steps)
        yield Trial(f"PGD-{steps}", "longer", longer, crafted_on=on, noisy=noisy, network=name)
    if noisy:
        yield replace(_longest(plan), network=name)


def halved(number: int) -> tuple[int, ...]:
    """Half a number, where that is more than one, and the number."""
    return (number // 2, number) if number > 3 else (number,)


def _projected(plan: CheckPlan) -> Pgd:
    return Pgd(plan.epsilon, plan.step_size, plan.steps)


_FAMILIES: dict[str, Callable[[CheckPlan, Subject], Any]] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "eot": _eot,
    "frozen": _frozen,
    "transfer": _transfer,
    "random": _random,
    "unbounded": _unbounded,
    "sweep": _sweep,
    "long": _long,
    "restarts": _restarts,
    "l2": _l2,
    "few-pixel": _few_pixel,
    "apgd": _apgd,
    "square": _square,
    "cw": _carlini_wagner,
    "hopskipjump": _hop_skip_jump,
}
