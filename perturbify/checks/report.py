"""The result of a check: figures that each carry their n, interval, adversary, and draws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbify import escape
from perturbify.checks import frames, shown
from perturbify.checks.criteria import Found, difference, gain
from perturbify.checks.evidence import STATUS, Criterion, Verdict, verdict
from perturbify.checks.gradients import ALIVE
from perturbify.checks.liveness import Liveness
from perturbify.checks.results import Example, Figure, Result
from perturbify.checks.statistics import Right
from perturbify.errors import CheckError

if TYPE_CHECKING:
    import pandas

SCHEMA = 4

NOT_ELIGIBLE = "Not eligible for the RobustBench leaderboard, which takes deterministic models only."


@dataclass(frozen=True)
class Headline:
    """The summary of a check.

    Attributes:
        clean: Accuracy on clean images.
        worst: Accuracy in the worst case of every image over all attacks within the ball and the clean image.
        best: Accuracy under the strongest single attack of those on all images; None without one.
        best_attack: Id of that attack.
        noise_adds: What the noise itself adds: the worst case over the same attacks with it minus that without it; None
            if it cannot be switched off, or was not.
        ahead: The difference to the baseline in the worst case over the same attacks on both; None without a baseline.
    """

    clean: Figure
    worst: Figure
    best: Figure | None
    best_attack: str | None
    noise_adds: Figure | None
    ahead: Figure | None

    @property
    def accuracy(self) -> float:
        """The worst case, in [0, 1]."""
        return self.worst.value


@dataclass(frozen=True)
class Report:
    """A robustness report.

    Attributes:
        name: What was checked.
        architecture: Class of the network.
        dataset: Name of the images.
        classes: Number of classes.
        preset: ``"quick"``, ``"standard"``, ``"paper"``, or ``"custom"``.
        n: Test images.
        seed: Seed of every random number in the check.
        epsilon: Radius of the l∞ attacks, in pixels of [0, 1].
        deterministic: Whether the network returns the same answer every time.
        noise_mode: ``"none"``, ``"fresh"`` (a draw for every image), ``"shared"`` (one for a batch), ``"weights"`` (one
            for a forward), or ``"foreign"`` (the network draws its own random numbers).
        liveness: Whether the noise is alive.
        results: One for each attack.
        criteria: Whether the figures can be trusted, the gradients first.
        baseline: Name of the network that it is compared with; None without one.
        examples: Some images under ``example_attack``.
        example_attack: Id of the attack that the examples show; None without examples.
        remarks: What a reader must know besides the figures, a sentence each.
        machine: Versions, device and threads.
        about: Where the network comes from, as far as its checkpoint tells.
    """

    name: str
    architecture: str
    dataset: str
    classes: int
    preset: str
    n: int
    seed: int
    epsilon: float
    deterministic: bool
    noise_mode: str
    liveness: Liveness
    results: tuple[Result, ...]
    criteria: tuple[Criterion, ...]
    machine: dict[str, Any]
    baseline: str | None = None
    examples: tuple[Example, ...] = ()
    example_attack: str | None = None
    remarks: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """``"established"``: every core criterion passes; ``"failed"``: one fails; else ``"not established"``."""
        return verdict(self.criteria)

    @property
    def status(self) -> int:
        """The verdict as an exit status: 0, 3 or 4."""
        return STATUS[self.verdict]

    @property
    def failures(self) -> list[str]:
        """One sentence for each piece of evidence that fails."""
        return [f"{c.name}: {e.statement}" for c in self.criteria for e in c.evidence if e.outcome == "fail"]

    @property
    def dead_gradients(self) -> float | None:
        """Share of images without a usable gradient if that criterion fails; else None."""
        alive = next((c for c in self.criteria if c.name == ALIVE), None)
        if alive is None or alive.outcome != "fail":
            return None
        return max(e.estimate for e in alive.evidence)

    @property
    def clean(self) -> Result:
        """The clean images, with the network's own noise."""
        return self._found.clean

    @property
    def within(self) -> list[Result]:
        """The attacks within the ball, on the network with its own noise."""
        return self._found.within()

    @cached_property
    def headline(self) -> Headline:
        """The summary of the check."""
        found, clean = self._found, self.clean
        worst = self.worst
        best = found.best_single()
        return Headline(
            clean=clean.figure,
            worst=Figure.of(worst, shared=clean.shared),
            best=None if best is None else best.figure,
            best_attack=None if best is None else best.id,
            noise_adds=self._noise_adds(),
            ahead=self._ahead(),
        )

    @cached_property
    def worst(self) -> Right:
        """Every image's answers in the worst case over all attacks; shape (n, draws), bool."""
        worst = self._found.worst(self._found.within())
        return self.clean.right if worst is None else worst

    @cached_property
    def resubmissions(self) -> dict[str, Figure]:
        """In the worst case, the share of images right in some of several answers; empty for a deterministic network.

        Keys: one answer, the majority of all draws, all of 5 and of 10, at least 8 and at least 1 of 10.
        """
        right = self.worst
        draws = right.shape[1]
        if draws < 2:
            return {}
        hits = right.sum(1)
        majority = (2 * hits > draws)[:, None]
        asked = [(5, 5), (10, 10), (8, 10), (1, 10)]
        found = {"one answer": self.headline.worst, f"the majority of {draws}": Figure.of(majority)}
        for least, of in asked:
            if of <= draws:
                name = f"all of {of}" if least == of else f"at least {least} of {of}"
                found[name] = Figure.of_shares(np.array([_at_least(least, of, int(h), draws) for h in hits]))
        return found

    def result(self, id: str) -> Result | None:
        """The result of a case by its id, such as ``"pgd"``; None if it was not run."""
        return next((r for r in self.results if r.id == id), None)

    def __repr__(self) -> str:
        return shown.report_lines(self)

    def _repr_html_(self) -> str:
        return shown.report_page(self)

    def to_frame(self) -> pandas.DataFrame:
        """The results as a pandas data frame, a row each.

        Accuracies, their intervals and other shares are in [0, 1], ε is in pixels of [0, 1], 0 without an attack.

        Raises:
            PerturbifyError: pandas is not installed.
        """
        return frames.frame(frames.of_report(self))

    def summary(self) -> dict[str, Any]:
        """The part that a checkpoint keeps."""
        kept = ("id", "attack", "on", "source", "network", "noise", "norm", "epsilon", "n", "attacked", "draws")
        figures = ("accuracy", "interval")
        return {
            "dataset": self.dataset,
            "preset": self.preset,
            "n": self.n,
            "seed": self.seed,
            "epsilon": self.epsilon,
            "verdict": self.verdict,
            "worst_case": _plain(asdict(self.headline.worst)),
            "criteria": {c.name: c.outcome for c in self.criteria},
            "rows": [{k: v for k, v in _plain(r.to_dict()).items() if k in kept + figures} for r in self.results],
        }

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        headline = self.headline
        values = {
            "schema": SCHEMA,
            # RobustBench's names, where it has them; accuracies in percent, as there.
            "name": self.name,
            "architecture": self.architecture,
            "dataset": self.dataset,
            "eps": self.epsilon,
            "clean_acc": round(100 * self.clean.accuracy, 2),
            "reported": round(100 * headline.accuracy, 2),
            "number_forward_passes": 1,
            "deterministic": self.deterministic,
            "footnote": None if self.deterministic else NOT_ELIGIBLE,
            # Specific to perturbify.
            "norm": "linf",
            "verdict": self.verdict,
            "status": self.status,
            "headline": asdict(headline),
            "resubmissions": {name: asdict(figure) for name, figure in self.resubmissions.items()},
            "noise_mode": self.noise_mode,
            "classes": self.classes,
            "preset": self.preset,
            "n": self.n,
            "seed": self.seed,
            "baseline": self.baseline,
            "noise": self.liveness.to_dict(),
            "criteria": [c.to_dict() for c in self.criteria],
            "results": [r.to_dict() for r in self.results],
            "remarks": list(self.remarks),
            "machine": self.machine,
            "about": self.about,
            "example_attack": self.example_attack,
            "examples": [asdict(e) for e in self.examples],
        }
        plain: dict[str, Any] = _plain(values)
        return plain

    def to_json(self) -> str:
        """The report as indented JSON."""
        return escape.json(self.to_dict()) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Reads what :meth:`to_dict` returned; derived values are computed anew.

        Raises:
            CheckError: It is not a report, or has another schema.
        """
        if values.get("schema") != SCHEMA:
            raise CheckError(
                f"This is not a report of schema {SCHEMA} (it says {values.get('schema')}).", "Run the check again."
            )
        try:
            noise = {k: v for k, v in values["noise"].items() if k not in ("alive", "failures")}
            return cls(
                **{k: values[k] for k in _COPIED},
                epsilon=values["eps"],
                liveness=Liveness(**noise | {"dead": tuple(noise["dead"]), "below_floor": tuple(noise["below_floor"])}),
                results=tuple(Result.from_dict(r) for r in values["results"]),
                criteria=tuple(Criterion.from_dict(c) for c in values["criteria"]),
                examples=tuple(Example(**e) for e in values["examples"]),
                remarks=tuple(values["remarks"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckError(
                f"This report is damaged ({type(error).__name__}: {error}).", "Run the check again."
            ) from error

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """Reads a report's JSON file.

        Raises:
            CheckError: There is no file, or it is not a report.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckError(f"{path} is not a report ({error}).", "Name the report.json of a check.") from error
        if not isinstance(values, dict):
            raise CheckError(f"{path} is not a report.", "Name the report.json of a check.")
        return cls.from_dict(values)

    @cached_property
    def _found(self) -> Found:
        return Found(self.results, self.epsilon)

    def _noise_adds(self) -> Figure | None:
        with_it = self._found.worst([r for r in self._found.within() if r.id in ("pgd", "margin")])
        without = [r.right for r in map(self.result, ("twin-clean", "twin-pgd", "twin-margin")) if r is not None]
        if with_it is None or self.result("twin-margin") is None:
            return None
        return difference(with_it, np.logical_and.reduce(without), shared=self.clean.shared)

    def _ahead(self) -> Figure | None:
        if self.baseline is None:
            return None
        return gain(self._found, Found(self.results, self.epsilon, self.baseline), self.baseline)


_COPIED = (
    *("name", "architecture", "dataset", "classes", "preset", "n", "seed", "baseline"),
    *("deterministic", "noise_mode", "machine", "about", "example_attack"),
)


def _at_least(least: int, of: int, hits: int, draws: int) -> float:
    """The probability that of some draws, sampled without replacement, at least so many are right."""
    ways = sum(math.comb(hits, k) * math.comb(draws - hits, of - k) for k in range(least, of + 1))
    return ways / math.comb(draws, of)


def _plain(values: Any) -> Any:
    return json.loads(json.dumps(values))
