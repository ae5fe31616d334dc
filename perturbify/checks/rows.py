"""From records to the rows of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from perturbify.checks.criteria import Outcome
from perturbify.checks.plan import CheckPlan
from perturbify.checks.records import Record, Records
from perturbify.checks.report import Example, Row
from perturbify.checks.statistics import Shares, mean_interval, survival
from perturbify.checks.trials import Trial


def outcomes(trials: Sequence[Trial], records: Records) -> list[Outcome]:
    """What each trial left, image by image, for the criteria."""
    return [Outcome(t, _shares(records.of(t.key))) for t in trials]


def rows(trials: Sequence[Trial], records: Records, plan: CheckPlan) -> tuple[Row, ...]:
    """One row for each trial."""
    return tuple(_row(t, records.of(t.key), records.of(_clean(t, trials).key), plan) for t in trials)


def examples(shown: Trial | None, trials: Sequence[Trial], records: Records) -> tuple[Example, ...]:
    """The pictures of the trial that is shown."""
    if shown is None:
        return ()
    attacked, clean = records.of(shown.key)[0], records.of(_clean(shown, trials).key)[0]
    pictures = attacked.pictures or []
    return tuple(
        Example(**picture, clean_accuracy=_share(clean.right[i]), accuracy=_share(attacked.right[i]))
        for i, picture in enumerate(pictures)
    )


def _row(trial: Trial, found: Sequence[Record], clean: Sequence[Record], plan: CheckPlan) -> Row:
    shares = _shares(found)
    n, draws = len(shares), len(found[0].right[0])
    linf, l2 = _all(r.linf for r in found), _all(r.l2 for r in found)
    attack = trial.attack
    fooled = None if attack is None else _all(r.fooled or [] for r in found)
    return Row(
        attack=trial.name,
        crafted_on=trial.crafted_on,
        noise="on" if trial.noisy else "off",
        norm=None if attack is None else attack.norm,
        epsilon=None if attack is None else attack.epsilon,
        settings={} if attack is None else asdict(attack),  # type: ignore[call-overload]
        n=n,
        draws=draws,
        accuracy=float(shares.mean()),
        interval=mean_interval(shares),
        majority=float(np.mean(_all(r.majority for r in found))),
        survival=(survived := _survival(found, plan.queries, n)),
        clean_survival=_survival(clean, list(survived), n),
        unperturbed=float(np.mean([d == 0 for d in linf])),
        claimed=None if fooled is None else float(np.mean(fooled)),
        distance={} if attack is None else {"linf": median(linf), "l2": median(l2)},
        forward=0 if attack is None else attack.passes.forward,
        gradient=0 if attack is None else attack.passes.gradient,
        seconds=round(sum(r.seconds for r in found), 3),
        points=trial.points,
        network=trial.network,
    )


def _survival(found: Sequence[Record], queries: Sequence[int], n: int) -> dict[int, float]:
    """Survival of the first n images."""
    answers = _all(r.right for r in found)[:n]
    draws = len(answers[0])
    right, lasted = [row.count("1") for row in answers], _all(r.lasted for r in found)[:n]
    if draws == 1:  # the network gives the same answer every time
        return {q: float(np.mean(right)) for q in queries}
    return {q: survival(right, lasted, draws, q) for q in queries if q <= found[0].queries}


def _clean(trial: Trial, trials: Sequence[Trial]) -> Trial:
    """The images as they are, on the same network with its noise in the same state."""
    return next(t for t in trials if t.attack is None and t.network == trial.network and t.noisy == trial.noisy)


def _shares(found: Sequence[Record]) -> Shares:
    return np.array([_share(row) for row in _all(r.right for r in found)])


def _share(row: str) -> float:
    return row.count("1") / len(row)


def _all(parts: Any) -> list[Any]:
    return list(chain.from_iterable(parts))
