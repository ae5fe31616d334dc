"""The words and figures that all renderings of a report share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perturbify.checks.report import Criterion, Evidence, Report, Row
from perturbify.text import counted, fraction, percent

QUERIES = (10, 100)
"""The numbers of queries whose survival the tables show."""

ACCURACY = "accuracy % [95%]"
"""Head of the column of accuracies."""

LEGEND = (
    "majority: the class most frequent among the draws is the right one. N× (clean): right in all of N queries, beside "
    "the same images without the attack. unperturbed: given back as they were. claimed: success as the attack "
    "itself counts it."
)

NOISE_MODES = {
    "none": "The network gives the same answer every time.",
    "fresh": "Every image had draws of its own.",
    "shared": "The images of a batch shared their draws.",
    "weights": "The noise is on the weights: the images of a batch shared their draws.",
    "foreign": "The network draws random numbers that are not perturbify's.",
}

_NORMS = {"linf": "l∞", "l2": "l2", "l0": "l0"}
_RANK = {"fail": 0, "undecided": 1, "pass": 2}


@dataclass(frozen=True)
class Column:
    """A column of the table of attacks.

    Attributes:
        head: Its head.
        cells: A cell for each row of the report.
        numeric: Whether its cells are figures.
    """

    head: str
    cells: tuple[str, ...]
    numeric: bool = True


def line(text: object) -> str:
    """Foreign text on one line, without the characters that steer a terminal or turn its direction."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def radius(row: Row) -> str:
    """The bound of an attack, ``l∞ 8/255``, or how far one without a bound went: ``l2, median 0.39``."""
    if row.norm is None:
        return "–"
    norm = _NORMS.get(row.norm, line(row.norm))
    if row.epsilon is None:
        gone = row.distance.get(row.norm)
        return f"{norm}, no bound" if gone is None else f"{norm}, median {gone:.2g}"
    return f"{norm} {fraction(row.epsilon) if row.norm == 'linf' and row.epsilon < 1 else format(row.epsilon, '.4g')}"


def called(row: Row) -> str:
    """The name of an attack where its row is not beside it: with what it was crafted on, if that is not the usual."""
    told = [] if row.norm is None or row.crafted_on == f"noise {row.noise}" else [row.crafted_on]
    told += [] if row.network == "itself" else [row.network]
    return line(row.attack + (f" ({', '.join(told)})" if told else ""))


def settings(values: Mapping[str, Any]) -> str:
    """Settings on one line: ``steps 7, step_size 0.01``."""
    return ", ".join(f"{line(key)} {_value(value)}" for key, value in values.items()) or "none"


def columns(report: Report) -> list[Column]:
    """The table of attacks; columns in which no row has anything to say are left out."""
    rows = report.rows
    found = [
        Column("attack", tuple(line(r.attack) for r in rows), numeric=False),
        Column("crafted on", tuple("–" if r.norm is None else line(r.crafted_on) for r in rows), numeric=False),
        Column("noise", tuple(line(r.noise) for r in rows), numeric=False),
        Column("norm, ε", tuple(radius(r) for r in rows), numeric=False),
    ]
    if any(r.network != "itself" for r in rows):
        found.insert(0, Column("network", tuple(line(r.network) for r in rows), numeric=False))
    if any(r.n != report.n for r in rows):
        found.append(Column("n", tuple(str(r.n) for r in rows)))
    found += [
        Column("draws", tuple(str(r.draws) for r in rows)),
        Column(ACCURACY, tuple(percent(r.accuracy, r.interval) for r in rows)),
        Column("majority %", tuple("–" if r.draws == 1 else percent(r.majority) for r in rows)),
    ]
    found += [Column(f"{q}× (clean) %", tuple(_survival(r, q) for r in rows)) for q in QUERIES]
    found += [
        Column("unperturbed %", tuple("–" if r.norm is None else percent(r.unperturbed) for r in rows)),
        Column("claimed %", tuple("–" if r.claimed is None else percent(r.claimed) for r in rows)),
    ]
    return [c for c in found if set(c.cells) != {"–"}]


def subject(report: Report) -> str:
    """What was measured, on one line, without the name."""
    return (
        f"{line(report.architecture)}, {report.n} test images of {line(report.dataset)}, l∞ ε = "
        f"{fraction(report.epsilon)}, preset {line(report.preset)}, seed {report.seed}"
    )


def verdict(report: Report) -> tuple[str, str]:
    """The verdict on the whole: ``"pass"``, ``"fail"`` or ``"undecided"``, and a sentence."""
    failed = [line(c.name) for c in report.criteria if c.verdict == "fail"]
    if report.liveness.failures:
        failed.insert(0, "the noise is alive")
    if failed:
        one = "this criterion does" if len(failed) == 1 else f"these {len(failed)} criteria do"
        return "fail", f"Failed: {one} not hold: {_quoted(failed)}."
    if not report.criteria:
        return "undecided", "No criterion was tested; these are figures alone."
    open_ = [line(c.name) for c in report.criteria if c.verdict == "undecided"]
    if open_:
        return (
            "undecided",
            f"No criterion failed; {len(open_)} of {len(report.criteria)} undecided: {_quoted(open_)}.",
        )
    return "pass", f"Passed: {len(report.criteria)} of {len(report.criteria)} criteria hold."


def worst(criterion: Criterion) -> Evidence | None:
    """The piece of evidence that speaks most against a criterion; None where there is none."""
    return min(criterion.evidence, key=lambda e: (_RANK[e.verdict], _margin(e)), default=None)


def evidence(e: Evidence) -> str:
    """The figures of a piece of evidence: ``-2.1 [-4.0, -0.3], at most 0.0 + 2.0``, the last being the tolerance."""
    tolerance = f" + {percent(e.tolerance)}" if e.tolerance else ""
    return f"{percent(e.estimate, e.interval)}, at most {percent(e.limit)}{tolerance}"


def liveness(report: Report) -> list[str]:
    """Whether the noise is alive, a line for each finding."""
    live = report.liveness
    if not live.sites:
        foreign = not report.deterministic
        return ["none of perturbify's, but the network is random" if foreign else "none in this network"]
    if live.failures:
        return [f"FAILED, {line(failure)}" for failure in live.failures]
    alive = f"alive at {counted(live.sites, 'site')}"
    if live.skipped is None:
        return [alive]
    skipped = f", {live.skipped} skipped on purpose" if live.skipped else ""
    return [f"{alive} behind {live.perturbed} of {live.convolutions} convolution calls{skipped}"]


def method(report: Report) -> list[str]:
    """How it was measured and what the figures are, a sentence or two each."""
    said = [
        "Adversarial images are crafted first. Then every one is scored by fresh, independent draws of the noise, none "
        "of which the attack has seen; no image is dropped, whatever the attack says of it. Accuracy is the mean "
        "probability of being right.",
        NOISE_MODES.get(report.noise_mode, f"Noise mode: {line(report.noise_mode)}."),
        "Brackets are 95% intervals by a bootstrap over images. They say how much the figures depend on which images "
        "were drawn; not what another training run would give, and not what a better attack would leave.",
        "An attack that fails proves nothing about the next one: all accuracies under attack are upper bounds.",
        "Differences are paired: both attacks on the same images. A criterion passes where the whole interval is at "
        "most the limit and its tolerance, fails where the whole interval is beyond the limit and the figure "
        "beyond the tolerance too, and is undecided in between.",
    ]
    if report.deterministic:
        said[0] = (
            "Adversarial images are crafted first and then scored in another pass; no image is dropped, whatever the "
            "attack says of it. The network gives the same answer every time, so one pass scores each image."
        )
    return said


def sentence(report: Report) -> str:
    """The main figures in the way a paper should give them."""
    clean, strongest = report.clean, report.strongest
    where = f"on {clean.n} test images of {line(report.dataset)}"
    said = f"{line(report.name)} has an accuracy of {percent(clean.accuracy, clean.interval)}% on clean images"
    if strongest is not None:
        said += (
            f" and of {percent(strongest.accuracy, strongest.interval)}% under {line(strongest.attack)}, crafted on "
            f"{line(strongest.crafted_on)} ({settings(strongest.settings)}), the strongest l∞ attack tried within ε = "
            f"{fraction(report.epsilon)}"
        )
        where += "" if strongest.n == clean.n else f" ({strongest.n} for the attack)"
    draws = "one pass" if clean.draws == 1 else f"{clean.draws} fresh draws of the noise"
    return (
        f"{said}, {where}; 95% bootstrap intervals over images, {draws} for each image "
        f"(perturbify check, preset {line(report.preset)}, seed {report.seed})."
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return line(value) if isinstance(value, str) else line(json.dumps(value, ensure_ascii=False, default=str))


def _survival(row: Row, queries: int) -> str:
    if queries not in row.survival or row.draws == 1:
        return "–"
    beside = f" ({percent(row.clean_survival[queries])})" if row.norm and queries in row.clean_survival else ""
    return percent(row.survival[queries]) + beside


def _margin(e: Evidence) -> float:
    return e.limit + e.tolerance - e.estimate
