"""The attacks of a check: what each is crafted on, what it is scored on, and what it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

from perturbify.attacks import Attack, FewPixel, MarginPgd, Pgd, RandomSearch, Square, registry, role_of
from perturbify.attacks.libraries import Apgd, ApgdT, CarliniWagner, FabT, HopSkipJump, StockAutoAttack
from perturbify.checks.plan import CheckPlan
from perturbify.checks.results import On, Point, Role
from perturbify.errors import CheckError, nearest
from perturbify.text import counted, fraction

ITSELF = "itself"


@dataclass(frozen=True)
class Case:
    """One attack in a check.

    Attributes:
        id: Unique within a check.
        name: The attack's name for people.
        role: What it is for.
        attack: None for clean images.
        on: What it attacks.
        source: Name of the other network, where ``on`` is ``"other"``.
        network: What is scored: ``"itself"``, or the name of the baseline.
        twin: Whether it is scored with the noise off.
        images: The most images it runs on; None: all of the check.
        standing: Whether it skips the images that earlier attacks have already won.
        points: Its points in the plots.
    """

    id: str
    name: str
    role: Role
    attack: Attack | None
    on: On = "itself"
    source: str | None = None
    network: str = ITSELF
    twin: bool = False
    images: int | None = None
    standing: bool = False
    points: tuple[Point, ...] = ()

    @property
    def needs_gradient(self) -> bool:
        """Whether the attack follows the gradient of what it is crafted on."""
        return self.attack is not None and self.attack.passes.gradient > 0


CLEAN = Case("clean", "clean", "clean", None)


@dataclass(frozen=True)
class Subject:
    """What the list of attacks depends on, besides the plan.

    Attributes:
        noisy: Whether the network is random.
        switchable: Whether all its randomness is perturbify's noise, which can be switched off and frozen.
        per_image: Whether each image of a batch can have draws of its own.
        classes: Number of classes.
        sources: Names of other networks to transfer from.
    """

    noisy: bool
    switchable: bool
    per_image: bool
    classes: int
    sources: tuple[str, ...] = ()


def cases(plan: CheckPlan, subject: Subject) -> tuple[Case, ...]:
    """The attacks of a plan on a network, in the order in which they run.

    Attacks that make no sense for a network are left out: averaging and frozen noise without noise, targets with two
    classes.

    Raises:
        ValueError: There is no attack of a name.
    """
    found = [CLEAN]
    for wanted in plan.attacks:
        if isinstance(wanted, Case):
            found.append(wanted)
        elif isinstance(wanted, str):
            check_known([wanted])
            found += _FAMILIES[wanted][1](plan, subject) if wanted in _FAMILIES else _registered(wanted, plan, subject)
        else:
            found.append(_own(wanted, {case.id for case in found}))
    return tuple({case.id: case for case in found}.values())


def known() -> dict[str, str]:
    """The attacks that can be named: built-in and registered ones, each with a one-line description.

    Raises:
        CheckError: One is registered under the name of a group of built-in attacks.
    """
    others = registry.registered()
    if taken := sorted(others.keys() & _FAMILIES.keys()):
        raise CheckError(f"An attack is registered as {taken[0]!r}, which is a built-in name.", "Choose another.")
    return {name: about for name, (about, _) in _FAMILIES.items()} | {name: e.about for name, e in others.items()}


def check_known(names: Sequence[str]) -> None:
    """Makes sure that there are attacks of these names.

    Raises:
        ValueError: There is no attack of a name; the message says which names are close.
    """
    for name in names:
        if name not in _FAMILIES and name not in (there := known()):
            known_ones = f"{nearest(name, there)} There are {', '.join(there)}".lstrip()
            raise ValueError(f"there is no attack {name!r}. {known_ones}")


def baseline_cases(plan: CheckPlan, subject: Subject, name: str) -> tuple[Case, ...]:
    """The clean images and the strongest built-in attacks, on the baseline."""
    found = (CLEAN, *_margin(plan, subject), *_longer(plan, subject))
    return tuple(replace(case, id=f"{case.id} of {name}", network=name, points=()) for case in found)


def _own(attack: Attack, taken: set[str]) -> Case:
    """A user's attack, named after its class, with a number if the name is taken."""
    name = type(attack).__name__
    ids = chain([name.lower()], (f"{name.lower()}-{i}" for i in count(2)))
    return Case(next(i for i in ids if i not in taken), name, role_of(attack), attack)


def _registered(name: str, plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    entry = registry.get(name)
    if not (
        ("3 classes" in entry.needs and subject.classes < 3) or ("4 classes" in entry.needs and subject.classes < 4)
    ):
        yield Case(name, name, entry.role, entry.build(plan.epsilon))


def _fgsm(plan: CheckPlan, _: Subject) -> Iterator[Case]:
    attack = Pgd(plan.epsilon, plan.epsilon, 1, random_start=False)
    yield Case("fgsm", "FGSM", "one step", attack, points=(Point("epsilon", "FGSM", plan.epsilon),))


def _pgd(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    attack, name = _projected(plan), f"PGD-{plan.steps}"
    points = [Point("epsilon", name, plan.epsilon), Point("steps", "PGD", plan.steps)]
    if subject.noisy:
        points.append(Point("draws", f"EOT-{name}", 1))
    yield Case("pgd", name, "white box", attack, points=tuple(points))
    if subject.switchable:
        yield Case("twin-pgd", f"{name}, noise off", "other", attack, on="twin", twin=True)


def _eot(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    for draws, id in ((plan.eot_draws // 2, "eot-half"), (plan.eot_draws, "eot")):
        if subject.noisy and draws > 1:
            attack = replace(_projected(plan), draws=draws, at_once=_at_once(plan, subject))
            point = Point("draws", f"EOT-PGD-{plan.steps}", draws)
            yield Case(id, f"EOT-PGD-{plan.steps}, {draws} draws", "white box", attack, points=(point,))


def _draws(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    draws = 1
    while subject.noisy and draws <= plan.most_draws:
        attack = replace(_projected(plan), draws=draws, at_once=_at_once(plan, subject))
        points = (Point("draws", f"EOT-PGD-{plan.steps}", draws),)
        name = f"EOT-PGD-{plan.steps}, {counted(draws, 'draw')}"
        yield Case(f"eot-{draws}", name, "white box", attack, images=plan.longest, points=points)
        draws *= 2


def _steps(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    """What reviewers of random defences ask for: 200 steps of 20 draws each."""
    attack = replace(_projected(plan), steps=plan.long_steps)
    points = (Point("steps", "PGD", plan.long_steps),)
    yield Case("pgd-long", f"PGD-{plan.long_steps}", "white box", attack, images=plan.longest, points=points)
    if subject.noisy:
        averaged = replace(attack, draws=20, at_once=_at_once(plan, subject))
        name = f"EOT-PGD-{plan.long_steps}, 20 draws"
        yield Case("eot-long", name, "white box", averaged, images=plan.longest)


def _margin(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    attack = _budget(plan, subject, 1)
    yield Case("margin", _called(attack), "white box", attack)


def _longer(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    """Twice the steps and twice the draws a step on a random network; four times the steps on any other."""
    attack = _budget(plan, subject, 2)
    yield Case("longer", _called(attack), "longer", attack, images=plan.longest, standing=True)


def _targets(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    targets = min(5, subject.classes - 1)
    if targets > 1:
        attack = replace(_budget(plan, subject, 1), targets=targets)
        name = f"{_called(attack)}, {targets} targets"
        yield Case("targets", name, "white box", attack, images=plan.longest, standing=True)


def _twin(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    """The same weights without noise, under the same attack: the difference is what the noise itself adds."""
    if subject.switchable:
        attack = _budget(plan, replace(subject, noisy=False), 1)
        yield Case("twin-clean", "clean, noise off", "other", None, on="twin", twin=True)
        yield Case("twin-margin", f"{_called(attack)}, noise off", "other", attack, on="twin", twin=True)


def _known(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    if subject.switchable:
        attack = _budget(plan, replace(subject, noisy=False), 1)
        yield Case("known", f"{_called(attack)}, known draw", "other", attack, on="known", images=plan.sanity)


def _frozen(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    if subject.switchable:
        yield Case(
            "frozen", f"PGD-{plan.steps}, frozen noise", "frozen", _projected(plan), on="frozen", images=plan.sanity
        )


def _transfer(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    name = f"PGD-{plan.steps} transfer"
    if subject.switchable:
        yield Case("transfer-twin", name, "black box", _projected(plan), on="twin")
    for source in subject.sources:
        yield Case(f"transfer from {source}", name, "black box", _projected(plan), on="other", source=source)


def _random(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    draws = plan.frozen_draws if subject.noisy else 1  # with one draw, the luckiest point would win
    attack = RandomSearch(plan.epsilon, plan.tries, draws)
    yield Case("random", f"random search, {plan.tries} points", "black box", attack, images=plan.sanity)


def _square(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    queries, draws = (plan.square_queries // 4, plan.square_draws) if subject.noisy else (plan.square_queries, 1)
    attack = Square(plan.epsilon, max(1, queries), draws=draws)
    name = f"Square, {attack.queries} queries"
    yield Case("square", name, "black box", attack, images=_most(plan, subject), standing=True)


def _unbounded(plan: CheckPlan, _: Subject) -> Iterator[Case]:
    """From the image itself, in steps too small for a random walk to destroy an image."""
    attack = Pgd(1.0, plan.epsilon / 3, 40, random_start=False)
    yield Case("unbounded", "PGD-40, unbounded", "unbounded", attack, standing=True)


def _sweep(plan: CheckPlan, _: Subject) -> Iterator[Case]:
    for epsilon in dict.fromkeys(min(1.0, multiple * plan.epsilon) for multiple in plan.sweep):
        at, name, id = f"ε = {fraction(epsilon)}", f"PGD-{plan.steps}", f"{epsilon:.6g}"
        one = Pgd(epsilon, epsilon, 1, random_start=False)
        points = (Point("epsilon", "FGSM", epsilon),)
        yield Case(f"fgsm at {id}", f"FGSM, {at}", "sweep", one, images=plan.sanity, points=points)
        # The step is proportional to ε, so that every ball is searched equally well.
        many = replace(_projected(plan), epsilon=epsilon, step_size=plan.step * epsilon / plan.epsilon)
        points = (Point("epsilon", name, epsilon),)
        yield Case(f"pgd at {id}", f"{name}, {at}", "sweep", many, images=plan.sanity, points=points)


def _restarts(plan: CheckPlan, _: Subject) -> Iterator[Case]:
    attack = replace(_projected(plan), restarts=plan.restarts)
    yield Case("restarts", f"PGD-{plan.steps}, {plan.restarts} restarts", "white box", attack, standing=True)


def _l2(plan: CheckPlan, _: Subject) -> Iterator[Case]:
    yield Case("l2", "PGD-50, l2 ≤ 0.5", "other", Pgd(0.5, 0.1, 50, norm="l2"))


def _few_pixel(plan: CheckPlan, _: Subject) -> Iterator[Case]:
    for pixels in (1, 2, 3):
        attack = FewPixel(pixels, plan.population, plan.generations)
        name = f"{pixels} pixel{'s' if pixels > 1 else ''}"
        yield Case(f"{pixels}-pixel", name, "other", attack, images=plan.few)


def _apgd(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    attack = Apgd("ce", plan.epsilon, draws=20 if subject.noisy else 1)
    yield Case("apgd", "APGD-CE", "white box", attack, images=_most(plan, subject), standing=True)


def _apgd_t(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    if subject.classes > 3:
        attack = ApgdT(plan.epsilon, draws=20 if subject.noisy else 1)
        images = plan.few if subject.noisy else None  # 18,000 gradients for each
        yield Case("apgd-t", "APGD-T", "white box", attack, images=images, standing=True)


def _fab(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    if not subject.noisy and subject.classes > 3:  # it looks for the boundary, which a random network lacks
        yield Case("fab", "FAB-T", "white box", FabT(plan.epsilon), standing=True)


def _stock(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    if subject.classes > 3:
        attack = StockAutoAttack("rand" if subject.noisy else "standard", plan.epsilon)
        yield Case("stock", f"AutoAttack {attack.version}, stock", "other", attack, images=plan.few)


def _carlini_wagner(plan: CheckPlan, _: Subject) -> Iterator[Case]:
    for confidence in plan.confidences:
        name = f"C&W, κ = {confidence:g}"
        yield Case(f"cw-{confidence:g}", name, "other", CarliniWagner(confidence), images=plan.few)


def _hop_skip_jump(plan: CheckPlan, subject: Subject) -> Iterator[Case]:
    attack = HopSkipJump(draws=10 if subject.noisy else 1)
    yield Case("hopskipjump", "HopSkipJump", "other", attack, images=plan.few)


def _projected(plan: CheckPlan) -> Pgd:
    return Pgd(plan.epsilon, plan.step, plan.steps)


def _budget(plan: CheckPlan, subject: Subject, times: int) -> MarginPgd:
    """The margin attack with the plan's number of gradients, times the square of ``times``.

    On a random network a step averages four draws: of the splits of 40 gradients tried on four noisy networks, it left
    the lowest accuracy on average (benchmarks/results/2026-11-27-quick.json).
    """
    if not subject.noisy:
        return MarginPgd(plan.epsilon, plan.gradients * times**2)
    at_once = _at_once(plan, subject)
    return MarginPgd(plan.epsilon, max(1, plan.gradients // 4) * times, draws=4 * times, at_once=at_once)


def _called(attack: MarginPgd) -> str:
    return f"Margin-PGD-{attack.steps}" + (f", {attack.draws} draws" if attack.draws > 1 else "")


def _most(plan: CheckPlan, subject: Subject) -> int | None:
    """Thousands of gradients an image are spent on some images of a random network, and on all of any other."""
    return plan.longest if subject.noisy else None


def _at_once(plan: CheckPlan, subject: Subject) -> int:
    return plan.at_once if subject.per_image and plan.noise == "fresh" else 1


_FAMILIES: dict[str, tuple[str, Callable[[CheckPlan, Subject], Iterator[Case]]]] = {
    "fgsm": ("one step of length ε", _fgsm),
    "pgd": ("projected steps, one draw of the noise a step", _pgd),
    "eot": ("projected steps, each on the mean gradient of independent draws", _eot),
    "margin": ("steps on the margin with momentum and decaying length, averaged over draws", _margin),
    "longer": ("four times the gradients of margin, on images still standing", _longer),
    "targets": ("margin towards each of the likeliest wrong classes, on images still standing", _targets),
    "twin": ("the same weights with the noise off: what does the noise add?", _twin),
    "known": ("one realisation of the noise, known to the attacker and used to score", _known),
    "frozen": ("projected steps on fixed realisations of the noise", _frozen),
    "transfer": ("crafted on the network without its noise, and on the networks given with --from", _transfer),
    "random": ("the worst of random points in the ball", _random),
    "square": ("Square (query-based), on images still standing", _square),
    "unbounded": ("projected steps from the image without a bound, on images still standing", _unbounded),
    "sweep": ("FGSM and PGD at other ε", _sweep),
    "steps": ("hundreds of steps, of 20 draws each", _steps),
    "draws": ("projected steps on the mean of 1, 2, 4, … draws", _draws),
    "restarts": ("PGD from several starting points, on images still standing", _restarts),
    "l2": ("projected steps in an l2 ball of 0.5", _l2),
    "few-pixel": ("1, 2 and 3 pixels by differential evolution", _few_pixel),
    "apgd": ("AutoAttack's APGD on the cross-entropy, averaged over draws, on images still standing", _apgd),
    "apgd-t": ("AutoAttack's targeted APGD, averaged over draws, on images still standing", _apgd_t),
    "fab": ("AutoAttack's targeted FAB, for deterministic networks, on images still standing", _fab),
    "stock": ("AutoAttack as its package runs it and papers report it", _stock),
    "cw": ("Carlini and Wagner's l2 attack (foolbox)", _carlini_wagner),
    "hopskipjump": ("HopSkipJump, decision-based, on frozen noise (foolbox)", _hop_skip_jump),
}
