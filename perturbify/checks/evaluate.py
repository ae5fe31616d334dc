"""Craft, then score: batch by batch, one attack after the other, resuming where a check stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perturbify.attacks import Attack, Crafted, Frozen
from perturbify.checks.cases import ITSELF, Case
from perturbify.checks.estimate import Estimate, estimate
from perturbify.checks.pictures import strip
from perturbify.checks.plan import CheckPlan
from perturbify.checks.records import Record, Records
from perturbify.checks.results import Answers, Example, Figure, Result
from perturbify.checks.scoring import score
from perturbify.checks.statistics import Right, surviving
from perturbify.compiling import compiled
from perturbify.data import Split
from perturbify.errors import CheckError
from perturbify.generators import seeded
from perturbify.methods.prediction import predictor
from perturbify.perturbation import drawing_per, noise
from perturbify.prediction import Ensemble
from perturbify.ranks import Ranks

SHARE = {"fresh": "sample", "shared": "batch"}

ENOUGH = 20
"""The least number of draws, all wrong, after which an image of a random network counts as lost."""


@dataclass(frozen=True)
class Progress:
    """The progress of a check.

    Attributes:
        case: Name of the attack whose batch is done.
        done: Batches of that attack that are done.
        total: Batches of that attack.
        seconds_left: Until the whole check is done, at the pace so far.
        batch: Number of the batch among those that were left to do in the whole check, from 1.
        batches: How many were left to do.
    """

    case: str
    done: int
    total: int
    seconds_left: float
    batch: int
    batches: int


@dataclass(frozen=True)
class Attacked:
    """A network of a check.

    Attributes:
        network: A classifier.
        random: Whether its answers are random.
        shared: Whether the images of a batch share its draws under the plan.
    """

    network: nn.Module
    random: bool
    shared: bool


class Bench:
    """Networks, images, and the attacks to run on them.

    Args:
        networks: By name; the one that is checked is :data:`~perturbify.checks.cases.ITSELF`.
        split: The images, ordered so that the first n are balanced over the classes.
        plan: Settings.
        device: The networks' device.
        class_names: Names for the example images.
        chosen: The cases, in the order in which they run.
    """

    def __init__(
        self,
        networks: Mapping[str, Attacked],
        split: Split,
        plan: CheckPlan,
        device: torch.device,
        class_names: tuple[str, ...],
        chosen: tuple[Case, ...],
    ) -> None:
        self._networks, self._split, self._plan = networks, split, plan
        self._targets: dict[str, nn.Module] = {name: a.network for name, a in networks.items()}
        self._device, self._class_names, self._cases = device, class_names, chosen
        plain = [c for c in chosen if c.role == "white box" and c.network == ITSELF and not (c.images or c.standing)]
        self.shown = plain[-1] if plain else None

    def compile(self) -> None:
        """Compiles the networks for the attacks; scoring, whose batches differ in size, stays uncompiled.

        Raises:
            Exception: torch.compile's own, if it cannot compile a network; then none is compiled.
        """
        x, y = self._batch(0, range(self._size(self._cases[0], 0)))
        with seeded(seed_of(self._plan.seed, "compiling"), [self._device]):
            self._targets = {name: compiled(network, x, y) for name, network in self._targets.items()}

    def jobs(self) -> list[tuple[Case, int]]:
        """All the work: each case and the numbers of its batches, in order."""
        n, size = len(self._split), self._plan.batch_size
        return [(c, b) for c in self._cases for b in range(-(-min(c.images or n, n) // size))]

    def expected(self, todo: Sequence[tuple[Case, int]], most: int | None = None) -> Estimate:
        """How long some of :meth:`jobs` may take, timed on the first batch or on at most that many of its images."""
        network = self._networks[ITSELF].network
        first = self._size(*todo[0])
        x, y = self._batch(todo[0][1], range(min(first, most or first)))
        answers = predictor(network)
        per_answer = answers.draws if isinstance(answers, Ensemble) else 1
        sizes = [(c, self._size(c, b), self._draws(c)) for c, b in todo]
        return estimate(network, x, y, sizes, self._plan, per_answer)

    def evaluate(
        self,
        records: Records,
        part: Ranks,
        on_start: Callable[[Estimate], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Does this process's part of the work that is not recorded yet.

        Args:
            records: Where results are kept.
            part: Which part: whole batches, since an attack may skip the images that earlier ones have won.
            on_start: Called with an estimate of the time.
            on_progress: Called after every batch.
        """
        jobs = self.jobs()
        todo = [(c, b) for c, b in jobs if part.mine(b) and (c.id, b) not in records]
        if not todo:
            return
        expected = self.expected(todo)
        if on_start is not None:
            on_start(expected)
        started, spent = time.perf_counter(), 0.0
        for number, ((case, batch), cost) in enumerate(zip(todo, expected.costs, strict=True), 1):
            records.add(self._record(records, case, batch))
            spent += cost
            if on_progress is not None:
                pace = (time.perf_counter() - started) / spent
                of_case = [(c.id, b) for c, b in jobs if c is case]
                done = sum(job in records for job in of_case)
                left = pace * (sum(expected.costs) - spent)
                on_progress(Progress(case.name, done, len(of_case), left, number, len(todo)))

    def results(self, records: Records) -> tuple[Result, ...]:
        """The result of each case, from its records."""
        return tuple(self._result(case, records.of(case.id)) for case in self._cases)

    def examples(self, records: Records) -> tuple[Example, ...]:
        """The example images of the case that is shown."""
        if self.shown is None:
            return ()
        clean, attacked = records.of("clean")[0], records.of(self.shown.id)[0]
        found = zip(attacked.pictures or [], clean.pictures or [], clean.right, attacked.right, strict=False)
        return tuple(
            Example(**{**p, "clean_answer": q["answer"]}, clean_accuracy=_share(before), accuracy=_share(after))
            for p, q, before, after in found
        )

    def _record(self, records: Records, case: Case, batch: int) -> Record:
        plan, every = self._plan, range(self._size(case, batch))
        lost = records.lost(self._before(case), batch) if case.standing else set()
        images = [i for i in every if i not in lost]
        # Its own seeds, so that a figure does not depend on what else was run, where, and in which order.
        seed = seed_of(plan.seed, case.id, batch)
        started = time.perf_counter()
        if not images:
            return Record(case.id, batch, seed, [], [], [], [], 0, None if case.attack is None else [], [], [], 0.0)
        x, y = self._batch(batch, images)
        crafted, fooled = x, None
        if case.attack is not None:
            with seeded(seed, [self._device]), self._crafting(case) as target:
                made = case.attack.craft(target, x, y)
            if not isinstance(made, Crafted):
                raise CheckError(
                    f"The attack {case.name} returned {type(made).__name__}.",
                    "craft() returns perturbify.attacks.Crafted(images, fooled).",
                )
            crafted, fooled = _within(case.name, case.attack, made.images, x), made.fooled.tolist()
        draws = self._draws(case)
        # Further queries are worth their time only for the clean images and for one attack.
        asked = draws > 1 and case.id in ("clean", "margin")
        queries = max(draws, *plan.queries) if asked else draws
        # The same draws for every case, image by image, so that two cases do not differ by luck of the noise.
        # So images that were left out are scored, too, unchanged.
        every_x, every_y = (x, y) if len(images) == len(every) else self._batch(batch, every)
        every_x = every_x.index_copy(0, torch.tensor(images, device=x.device), crafted)
        with seeded(seed_of(plan.seed, "scoring", batch), [self._device]), self._scoring(case) as scored:
            scores = score(scored, every_x, every_y, draws=draws, queries=queries).of(images)
        change = (crafted - x).flatten(1)
        pictures = None
        if batch == 0 and (case is self.shown or case.id == "clean"):
            said = [self._class_names[a] if a >= 0 else "none" for a in scores.answer.tolist()]
            pictures = strip(x, crafted, [self._class_names[label] for label in y.tolist()], said)
        return Record(
            case=case.id,
            batch=batch,
            seed=seed,
            images=images,
            right=["".join("01"[hit] for hit in row) for row in scores.right.tolist()],
            majority=scores.majority.tolist(),
            lasted=scores.lasted.tolist(),
            queries=queries,
            fooled=fooled,
            linf=[round(v, 6) for v in change.abs().amax(1).tolist()],
            l2=[round(v, 5) for v in change.norm(dim=1).tolist()],
            seconds=round(time.perf_counter() - started, 3),
            pictures=pictures,
        )

    def _result(self, case: Case, found: Sequence[Record]) -> Result:
        n, draws, size = (
            min(case.images or len(self._split), len(self._split)),
            self._draws(case),
            self._plan.batch_size,
        )
        right, majority = np.zeros((n, draws), bool), np.zeros((n, 1), bool)
        for r in found:
            at = [r.batch * size + i for i in r.images]
            right[at] = np.array([[c == "1" for c in row] for row in r.right], bool).reshape(len(at), draws)
            majority[at, 0] = r.majority
        attack, network = case.attack, self._networks[case.network]
        attacked = sum(len(r.images) for r in found)
        linf, l2, fooled = ([v for r in found for v in getattr(r, key) or []] for key in ("linf", "l2", "fooled"))
        shared = draws > 1 and network.shared
        return Result(
            id=case.id,
            attack=case.name,
            role=case.role,
            on=case.on,
            source=case.source,
            noise="on" if network.random and not case.twin else "off",
            norm=None if attack is None else attack.norm,
            epsilon=None if attack is None else attack.epsilon,
            settings={} if attack is None else _settings(attack),
            answers=Answers.of(right),
            attacked=attacked,
            shared=shared,
            majority=Figure.of(majority),
            survival=_survival(found, right, self._plan.queries) if not case.standing else {},
            unperturbed=float(np.mean([d == 0 for d in linf])) if linf else 0.0,
            claimed=None if attack is None else float(np.mean(fooled)) if fooled else 0.0,
            distance={"linf": median(linf), "l2": median(l2)} if attack is not None and linf else {},
            forward=0 if attack is None else attack.passes.forward,
            gradient=0 if attack is None else attack.passes.gradient,
            seconds=round(sum(r.seconds for r in found), 3),
            points=case.points,
            network=case.network,
        )

    def _before(self, case: Case) -> list[str]:
        """The earlier attacks within the ball that score the same network with enough draws."""
        earlier = self._cases[: self._cases.index(case)]
        plan = self._plan
        return [
            c.id
            for c in earlier
            if (c.network, c.twin) == (case.network, case.twin)
            and c.on != "known"
            and (c.attack is None or (c.attack.norm == "linf" and (c.attack.epsilon or 1) <= plan.epsilon + 1e-9))
            and (self._draws(c) >= ENOUGH or not self._networks[c.network].random)
        ]

    def _draws(self, case: Case) -> int:
        once = not self._networks[case.network].random or case.twin or case.on == "known"
        return 1 if once else max(2, self._plan.draws)  # one half of them chooses, the other scores

    @contextmanager
    def _crafting(self, case: Case) -> Iterator[nn.Module]:
        """The network that a case attacks, with the case's kind of noise."""
        name = case.source if case.on == "other" and case.source is not None else case.network
        with self._noise(self._networks[name].network, case.on != "twin") as target:
            if case.on == "frozen":
                yield Frozen(target, self._plan.frozen_draws, self._plan.seed)
            else:
                yield self._known(target) if case.on == "known" else self._targets[name]

    @contextmanager
    def _scoring(self, case: Case) -> Iterator[nn.Module]:
        """The network that answers: its method's prediction, its twin, or the realisation that the attacker knows."""
        network = self._networks[case.network].network
        with self._noise(network, not case.twin):
            if case.on == "known":
                yield self._known(network)
            else:
                yield network if case.twin else predictor(network)

    @contextmanager
    def _noise(self, network: nn.Module, on: bool) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            if not on:
                stack.enter_context(noise(network, enabled=False))
            stack.enter_context(drawing_per(network, SHARE[self._plan.noise]))
            yield network

    def _known(self, network: nn.Module) -> nn.Module:
        return Frozen(network, 1, self._plan.seed + 1)

    def _batch(self, batch: int, images: Sequence[int]) -> tuple[Tensor, Tensor]:
        order = batch * self._plan.batch_size + torch.tensor(images)
        x, y = next(self._split.batches(len(order), order=order))
        return x.to(self._device), y.to(self._device)

    def _size(self, case: Case, batch: int) -> int:
        n = min(case.images or len(self._split), len(self._split))
        return min(self._plan.batch_size, n - batch * self._plan.batch_size)


def seed_of(*parts: object) -> int:
    """A seed that depends on these parts only."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:4], "little")


def _within(name: str, attack: Attack, images: Tensor, x: Tensor) -> Tensor:
    """Checks adversarial images: one that leaves the ball would win what no attack within it can.

    Raises:
        CheckError: They are not images, or too far from the originals.
    """
    whole = images.shape == x.shape and bool(((images >= 0) & (images <= 1)).all())
    if whole and attack.epsilon is not None and attack.norm != "l0":
        change = (images - x).flatten(1).float()
        length = change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)
        whole = bool((length <= attack.epsilon * (1 + 1e-4) + 1e-6).all())
    if not whole:
        raise CheckError(
            f"{name} returns images that are not pixels in [0, 1] within its ε.",
            "Clamp them to the ball and to [0, 1], and avoid NaN.",
        )
    return images


def _settings(attack: object) -> dict[str, Any]:
    return asdict(attack) if is_dataclass(attack) and not isinstance(attack, type) else {"attack": repr(attack)}


def _survival(found: Sequence[Record], right: Right, queries: Sequence[int]) -> dict[int, Figure]:
    lasted = [v for r in found for v in r.lasted]
    asked, draws = max((r.queries for r in found), default=0), right.shape[1]
    if draws == 1:  # the network is deterministic
        return {q: Figure.of(right) for q in queries}
    hits = right.sum(1).tolist()
    return {q: Figure.of_shares(surviving(hits, lasted, draws, q)) for q in queries if q <= asked}


def _share(row: str) -> float:
    return row.count("1") / len(row)
