"""Crafting and scoring, batch by batch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perturbify.attacks import Frozen
from perturbify.checks.estimate import Estimate, estimate
from perturbify.checks.pictures import strip
from perturbify.checks.plan import CheckPlan
from perturbify.checks.records import Record, Records
from perturbify.checks.scoring import score
from perturbify.checks.trials import ITSELF, Trial
from perturbify.compiling import compiled
from perturbify.data import Split
from perturbify.generators import seeded
from perturbify.methods.prediction import Ensemble, predictor
from perturbify.perturbation import noise, sharing
from perturbify.ranks import Ranks

SHARE = {"fresh": "sample", "shared": "batch"}


@dataclass(frozen=True)
class Progress:
    """Where a check stands.

    Attributes:
        trial: Key of the attack whose batch is done.
        done: Batches of that attack that are done.
        total: Batches it has.
        seconds_left: Until the whole check is done, by the pace so far.
    """

    trial: str
    done: int
    total: int
    seconds_left: float


class Bench:
    """Networks, images, and what is to be tried on them.

    Args:
        networks: By name; the one that is checked is :data:`ITSELF`.
        split: The images, in an order whose beginnings are balanced.
        plan: Settings.
        device: Where the networks are.
        class_names: For the pictures.
        chosen: The trials.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        split: Split,
        plan: CheckPlan,
        device: torch.device,
        class_names: tuple[str, ...],
        chosen: tuple[Trial, ...],
    ) -> None:
        self._networks, self._split, self._plan = networks, split, plan
        self._attacked: dict[str, nn.Module] = dict(networks)
        self._device, self._class_names, self._trials = device, class_names, chosen
        attacks = [t for t in chosen if t.network == ITSELF and t.role in ("many steps", "averaged") and not t.images]
        self.shown = attacks[-1] if attacks else None

    def compile(self) -> None:
        """Compiles the networks for the attacks; scoring, whose batches differ in size, runs as before.

        Raises:
            Exception: torch.compile's, for a network that it cannot compile; then none is.
        """
        x, y = self._batch(self._trials[0], 0)
        with seeded(seed_of(self._plan.seed, "compiling"), [self._device]):
            self._attacked = {name: compiled(network, x, y) for name, network in self._networks.items()}

    def work_off(
        self,
        records: Records,
        part: Ranks,
        on_start: Callable[[Estimate], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Does this process's share of what is not recorded yet.

        Args:
            records: Where it is noted.
            part: Which share.
            on_start: Called with an estimate of the time.
            on_progress: Called after every batch.
        """
        plan, n = self._plan, len(self._split)
        jobs = [(t, b) for t in self._trials for b in range(-(-min(t.images or n, n) // plan.batch_size))]
        todo = [(t, b) for i, (t, b) in enumerate(jobs) if part.mine(i) and (t.key, b) not in records]
        if not todo:
            return
        x, y = self._batch(todo[0][0], 0)
        answers = predictor(self._networks[ITSELF])
        per_answer = answers.draws if isinstance(answers, Ensemble) else 1
        sizes = [(t, self._size(t, b)) for t, b in todo]
        expected = estimate(self._networks[ITSELF], x, y, sizes, plan, per_answer)
        if on_start is not None:
            on_start(expected)
        started, spent = time.perf_counter(), 0.0
        for (trial, batch), cost in zip(todo, expected.costs, strict=True):
            records.add(self._record(trial, batch))
            spent += cost
            if on_progress is not None:
                pace = (time.perf_counter() - started) / spent
                of_trial = [(t.key, b) for t, b in jobs if t is trial]
                done = sum(job in records for job in of_trial)
                on_progress(Progress(trial.key, done, len(of_trial), pace * (sum(expected.costs) - spent)))

    def _record(self, trial: Trial, batch: int) -> Record:
        plan = self._plan
        x, y = self._batch(trial, batch)
        # A seed of its own, so that a figure does not depend on what else was run, where, and in which order.
        seed = seed_of(plan.seed, trial.key, batch)
        # Attacked by single draws, whose mean gradient is EOT's; scored as the method predicts.
        scored = predictor(self._networks[trial.network]) if trial.noisy else self._networks[trial.network]
        averaging = isinstance(scored, Ensemble)
        started = time.perf_counter()
        images, fooled = x, None
        if trial.attack is not None:
            with seeded(seed, [self._device]), self._crafting(trial) as target:
                crafted = trial.attack.craft(target, x, y)
            images, fooled = crafted.images, crafted.fooled.tolist()
        with seeded(seed + 1, [self._device]), noise(scored, trial.noisy), sharing(scored, SHARE[plan.noise]):
            draws = plan.draws if trial.noisy else 1
            # Who averages many draws answers alike each time, and slowly.
            asked = trial.noisy and trial.role != "sweep" and not averaging
            queries = max(draws, *plan.queries) if asked else draws
            scores = score(scored, images, y, draws=draws, queries=queries)
        change = (images - x).flatten(1)
        names = [self._class_names[label] for label in y.tolist()]
        return Record(
            trial=trial.key,
            batch=batch,
            seed=seed,
            right=["".join("01"[hit] for hit in row) for row in scores.right.tolist()],
            majority=scores.majority.tolist(),
            lasted=scores.lasted.tolist(),
            queries=queries,
            fooled=fooled,
            linf=[round(v, 6) for v in change.abs().amax(1).tolist()],
            l2=[round(v, 5) for v in change.norm(dim=1).tolist()],
            seconds=round(time.perf_counter() - started, 3),
            pictures=strip(x, images, names) if trial is self.shown and batch == 0 else None,
        )

    @contextmanager
    def _crafting(self, trial: Trial) -> Iterator[nn.Module]:
        """The network that a trial attacks, with its noise as the trial says."""
        name = trial.crafted_on if trial.crafted_on in self._networks else trial.network
        target = self._networks[name]
        with noise(target, trial.crafted_on != "noise off"), sharing(target, SHARE[self._plan.noise]):
            yield (
                Frozen(target, self._plan.frozen_draws, self._plan.seed)
                if trial.crafted_on == "frozen noise"
                else self._attacked[name]
            )

    def _batch(self, trial: Trial, batch: int) -> tuple[Tensor, Tensor]:
        start = batch * self._plan.batch_size
        order = torch.arange(start, start + self._size(trial, batch))
        x, y = next(self._split.batches(len(order), order=order))
        return x.to(self._device), y.to(self._device)

    def _size(self, trial: Trial, batch: int) -> int:
        n = min(trial.images or len(self._split), len(self._split))
        return min(self._plan.batch_size, n - batch * self._plan.batch_size)


def seed_of(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:4], "little")
