"""The result of a check: figures that each carry their n, interval, adversary, and draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from perturbify.checks.liveness import Liveness
from perturbify.errors import CheckError

SCHEMA = 2

Verdict = Literal["pass", "fail", "undecided"]

NOT_ELIGIBLE = "Not eligible for the RobustBench leaderboard, which takes deterministic models only."


@dataclass(frozen=True)
class Point:
    """Where a row stands in a plot.

    Attributes:
        figure: ``"epsilon"`` (accuracy against ε), ``"draws"`` (against the draws that a step averages) or ``"steps"``.
        line: The curve it belongs to.
        x: Its abscissa: ε in pixels, draws, or steps.
    """

    figure: Literal["epsilon", "draws", "steps"]
    line: str
    x: float


@dataclass(frozen=True)
class Row:
    """What one attack left of the accuracy.

    Every figure but ``claimed`` is of ``draws`` fresh, independent draws of the noise for each image, none of which
    the attack has seen.

    Attributes:
        attack: Its name, such as ``"EOT-PGD-7"``; ``"clean"`` without one.
        crafted_on: What it attacked: ``"noise on"``, ``"noise off"``, ``"frozen noise"``, or another network's name.
        noise: ``"on"`` or ``"off"`` while scoring.
        norm: ``"linf"``, ``"l2"``, ``"l0"``; None without an attack.
        epsilon: Bound of the perturbation in that norm, in pixels of [0, 1]; None where there is none.
        settings: All settings of the attack.
        n: Images.
        draws: Draws that score each image; 1 where the network gives the same answer every time.
        accuracy: Mean probability of being right.
        interval: Its 95% interval by a bootstrap over images.
        majority: Share of images where the class most frequent among the draws is the right one.
        survival: For N queries, the share of images that are right in all N of them.
        clean_survival: The same for the same images without the attack.
        unperturbed: Share of images that the attack gave back as they were.
        claimed: Share of images where the attack holds that it succeeded; None without an attack.
        distance: Median length of the perturbations, by norm (``"linf"``, ``"l2"``).
        forward: Passes without a gradient that it spent on each image.
        gradient: Passes with one.
        seconds: Time for crafting and scoring.
        points: Where it stands in the plots.
        network: The network that was scored: ``"itself"``, or the name of one it is held against.
    """

    attack: str
    crafted_on: str
    noise: Literal["on", "off"]
    norm: str | None
    epsilon: float | None
    settings: dict[str, Any]
    n: int
    draws: int
    accuracy: float
    interval: tuple[float, float]
    majority: float
    survival: dict[int, float]
    clean_survival: dict[int, float]
    unperturbed: float
    claimed: float | None
    distance: dict[str, float]
    forward: float
    gradient: float
    seconds: float
    points: tuple[Point, ...] = ()
    network: str = "itself"


@dataclass(frozen=True)
class Evidence:
    """One figure that speaks for or against a criterion.

    Attributes:
        statement: What was compared, in words, without the figures.
        estimate: The figure: a difference of accuracies over the same images, or an accuracy.
        interval: Its 95% interval.
        limit: What the figure must not exceed.
        tolerance: How far beyond counts as equal.
    """

    statement: str
    estimate: float
    interval: tuple[float, float]
    limit: float
    tolerance: float

    @property
    def verdict(self) -> Verdict:
        """``"pass"`` where the whole interval is at most limit + tolerance.

        ``"fail"`` where the whole interval is beyond the limit, and the estimate beyond limit + tolerance; else
        ``"undecided"``.
        """
        bound = self.limit + self.tolerance
        if self.interval[1] <= bound:
            return "pass"
        return "fail" if self.interval[0] > self.limit and self.estimate > bound else "undecided"


@dataclass(frozen=True)
class Criterion:
    """A sanity criterion.

    Attributes:
        name: Such as ``"one step never beats many"``.
        why: What a failure would mean, in a sentence.
        evidence: The comparisons; none where what it takes was not measured.
        detail: What was not measured, or a remark; may be empty.
    """

    name: str
    why: str
    evidence: tuple[Evidence, ...]
    detail: str = ""

    @property
    def verdict(self) -> Verdict:
        """``"fail"`` where any evidence fails, ``"pass"`` where there is some and all passes, else ``"undecided"``."""
        verdicts = {e.verdict for e in self.evidence}
        if "fail" in verdicts:
            return "fail"
        return "pass" if verdicts == {"pass"} else "undecided"


@dataclass(frozen=True)
class Example:
    """An image before and after an attack, as PNG data URLs.

    Attributes:
        label: Its class.
        clean: The image.
        adversarial: The attacked image.
        difference: Ten times the difference, around grey.
        clean_accuracy: Share of the scoring draws that get the clean image right.
        accuracy: Share of them that get the attacked one right.
    """

    label: str
    clean: str
    adversarial: str
    difference: str
    clean_accuracy: float
    accuracy: float


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
        seed: Of every random number in the check.
        epsilon: Radius of the l∞ attacks, in pixels of [0, 1].
        deterministic: Whether the network gives the same answer every time.
        noise_mode: ``"none"``, ``"fresh"`` (a draw for every image), ``"shared"`` (one for a batch), or ``"foreign"``
            (the network draws random numbers by itself).
        liveness: Whether the noise is alive.
        rows: One for each attack.
        criteria: The sanity criteria.
        examples: Some images under ``example_attack``.
        example_attack: Name of the attack that the examples show; None without examples.
        remarks: What a reader must know beside the figures, a sentence each.
        machine: Versions, device and threads.
        about: Where the network comes from, as far as its checkpoint says.
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
    rows: tuple[Row, ...]
    criteria: tuple[Criterion, ...]
    machine: dict[str, Any]
    examples: tuple[Example, ...] = ()
    example_attack: str | None = None
    remarks: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """One sentence for each criterion that fails, the noise's liveness among them."""
        failed = [f"{c.name}: {e.statement}" for c in self.criteria for e in c.evidence if e.verdict == "fail"]
        return self.liveness.failures + failed

    @property
    def passed(self) -> bool:
        """Whether no criterion fails; those that are undecided do not count."""
        return not self.failures

    @property
    def clean(self) -> Row:
        """The row of the images as they are, with the noise as the network has it."""
        return next(r for r in self.rows if r.norm is None and r.network == "itself")

    @property
    def strongest(self) -> Row | None:
        """The attack that leaves the least: of those within ε on all images, scored with the noise as it is."""
        comparable = [
            r
            for r in self.rows
            if (r.norm, r.noise, r.network, r.n) == ("linf", self.clean.noise, self.clean.network, self.n)
            and r.epsilon is not None
            and r.epsilon <= self.epsilon + 1e-9
        ]
        return min(comparable, key=lambda r: r.accuracy, default=None)

    def summary(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        kept = (
            "network",
            "attack",
            "crafted_on",
            "noise",
            "norm",
            "epsilon",
            "n",
            "draws",
            "accuracy",
            "interval",
            "majority",
        )
        return {
            "dataset": self.dataset,
            "preset": self.preset,
            "n": self.n,
            "seed": self.seed,
            "epsilon": self.epsilon,
            "passed": self.passed,
            "criteria": {c.name: c.verdict for c in self.criteria},
            "rows": [{k: v for k, v in _plain(row).items() if k in kept} for row in self.rows],
        }

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        strongest = self.strongest
        return {
            "schema": SCHEMA,
            # RobustBench's names for what it has names for; accuracies in percent, as there.
            "name": self.name,
            "architecture": self.architecture,
            "dataset": self.dataset,
            "eps": self.epsilon,
            "clean_acc": round(100 * self.clean.accuracy, 2),
            "reported": None if strongest is None else round(100 * strongest.accuracy, 2),
            "number_forward_passes": 1,
            "deterministic": self.deterministic,
            "footnote": None if self.deterministic else NOT_ELIGIBLE,
            # Ours.
            "norm": "linf",
            "strongest_attack": None if strongest is None else strongest.attack,
            "noise_mode": self.noise_mode,
            "classes": self.classes,
            "preset": self.preset,
            "n": self.n,
            "seed": self.seed,
            "passed": self.passed,
            "noise": self.liveness.to_dict(),
            "rows": [_plain(row) for row in self.rows],
            "criteria": [_judged(c) for c in self.criteria],
            "remarks": list(self.remarks),
            "machine": self.machine,
            "about": self.about,
            "example_attack": self.example_attack,
            "examples": [_plain(e) for e in self.examples],
        }

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Reads what :meth:`to_dict` made.

        Raises:
            CheckError: It is not a report, or of another schema.
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
                rows=tuple(_row(r) for r in values["rows"]),
                criteria=tuple(_criterion(c) for c in values["criteria"]),
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
            CheckError: There is none, or it is not a report.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckError(f"{path} is not a report ({error}).", "Give the report.json of a check.") from error
        if not isinstance(values, dict):
            raise CheckError(f"{path} is not a report.", "Give the report.json of a check.")
        return cls.from_dict(values)


_COPIED = (
    *("name", "architecture", "dataset", "classes", "preset", "n", "seed"),
    *("deterministic", "noise_mode", "machine", "about", "example_attack"),
)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value)))


def _judged(criterion: Criterion) -> dict[str, Any]:
    evidence = [_plain(e) | {"verdict": e.verdict} for e in criterion.evidence]
    return _plain(criterion) | {"verdict": criterion.verdict, "evidence": evidence}


def _row(values: Mapping[str, Any]) -> Row:
    counts = {k: {int(n): share for n, share in values[k].items()} for k in ("survival", "clean_survival")}
    points = tuple(Point(**p) for p in values["points"])
    return Row(**{**values, **counts, "interval": tuple(values["interval"]), "points": points})


def _criterion(values: Mapping[str, Any]) -> Criterion:
    evidence = (_without_verdict(e) for e in values["evidence"])
    return Criterion(
        **_without_verdict(values)
        | {"evidence": tuple(Evidence(**e | {"interval": tuple(e["interval"])}) for e in evidence)}
    )


def _without_verdict(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != "verdict"}  # which follows from the figures
