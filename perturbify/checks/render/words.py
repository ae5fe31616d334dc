"""The words and figures that all renderings of a report share.

Foreign text in them is not escaped: each renderer does that for its own format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perturbify.checks.criteria import called as named
from perturbify.checks.evidence import Criterion, Evidence, Verdict
from perturbify.checks.report import Report
from perturbify.checks.results import Figure, Result
from perturbify.text import counted, fraction, percent

QUERIES = (10, 100)
"""Numbers of queries for which the tables show survival."""

ACCURACY = "accuracy % [95%]"
"""Head of the column of accuracies."""

LEGEND = (
    "attacked: the images that the attack was run on; the others were already lost to earlier attacks and count as "
    "wrong. majority: the most frequent class among the draws is the right one. N× (clean): "
    "right in all of N queries, and the same for clean images. unperturbed: returned unchanged. "
    "claimed: success as the attack itself reports it."
)

NOISE_MODES = {
    "none": "The network is deterministic.",
    "fresh": "Every image had its own draws.",
    "shared": "The images of a batch shared their draws, which widens the intervals.",
    "weights": "The noise is on the weights: the images of a batch shared their draws, which widens the intervals.",
    "foreign": "The network draws random numbers that are not perturbify's.",
}

VERDICTS: dict[Verdict, str] = {
    "established": "Established",
    "failed": "Failed",
    "not established": "Not established",
}

_NORMS = {"linf": "l∞", "l2": "l2", "l0": "l0"}
_RANK = {"fail": 0, "undecided": 1, "not measured": 2, "pass": 3}


@dataclass(frozen=True)
class Column:
    """A column of the table of attacks.

    Attributes:
        head: Its head.
        cells: A cell for each result of the report.
        numeric: Whether its cells are figures.
    """

    head: str
    cells: tuple[str, ...]
    numeric: bool = True


def radius(result: Result) -> str:
    """The bound of an attack, ``l∞ 8/255``, or how far an unbounded one went: ``l2, median 0.39``."""
    if result.norm is None:
        return "–"
    norm = _NORMS.get(result.norm, result.norm)
    if result.epsilon is None:
        gone = result.distance.get(result.norm)
        return f"{norm}, no bound" if gone is None else f"{norm}, median {gone:.2g}"
    linf = result.norm == "linf" and result.epsilon < 1
    return f"{norm} {fraction(result.epsilon) if linf else format(result.epsilon, '.4g')}"


def crafted_on(result: Result) -> str:
    """What an attack was crafted on, in words."""
    if result.norm is None:
        return "–"
    itself = f"noise {result.noise}"
    where = {"itself": itself, "twin": "noise off", "frozen": "frozen noise", "known": "one known draw"}
    return result.source or where.get(result.on, result.on)


def called(result: Result) -> str:
    """The full name of an attack, outside of the table of attacks."""
    network = "" if result.network == "itself" else f" on {result.network}"
    return named(result) + network


def settings(values: Mapping[str, Any]) -> str:
    """Settings on one line: ``steps 7, step_size 0.01``."""
    return ", ".join(f"{key} {_value(value)}" for key, value in values.items()) or "none"


def columns(report: Report) -> list[Column]:
    """The table of attacks; columns that are empty for all results are left out."""
    rows = report.results
    found = [
        Column("attack", tuple(r.attack for r in rows), numeric=False),
        Column("crafted on", tuple(map(crafted_on, rows)), numeric=False),
        Column("noise", tuple(r.noise for r in rows), numeric=False),
        Column("norm, ε", tuple(map(radius, rows)), numeric=False),
    ]
    if any(r.network != "itself" for r in rows):
        found.insert(0, Column("network", tuple(r.network for r in rows), numeric=False))
    if any(r.n != report.n for r in rows):
        found.append(Column("n", tuple(str(r.n) for r in rows)))
    if any(r.attacked != r.n for r in rows):
        found.append(Column("attacked", tuple(str(r.attacked) for r in rows)))
    found += [
        Column("draws", tuple(str(r.draws) for r in rows)),
        Column(ACCURACY, tuple(percent(r.accuracy, r.interval) for r in rows)),
        Column("majority %", tuple("–" if r.draws == 1 else percent(r.majority.value) for r in rows)),
    ]
    found += [Column(f"{q}× (clean) %", tuple(_survival(report, r, q) for r in rows)) for q in QUERIES]
    found += [
        Column("unperturbed %", tuple("–" if r.norm is None else percent(r.unperturbed) for r in rows)),
        Column("claimed %", tuple("–" if r.claimed is None else percent(r.claimed) for r in rows)),
    ]
    return [c for c in found if set(c.cells) != {"–"}]


def subject(report: Report) -> str:
    """What was measured, on one line, without the name."""
    architecture = "" if report.architecture == report.name else f"{report.architecture}, "
    return (
        f"{architecture}{report.n} test images of {report.dataset}, l∞ ε = {fraction(report.epsilon)}, "
        f"preset {report.preset}, seed {report.seed}"
    )


def dead(report: Report) -> str | None:
    """The first sentence of a report if gradients are dead."""
    share = report.dead_gradients
    if share is None:
        return None
    return (
        f"GRADIENTS ARE DEAD: on {100 * share:.0f}% of the images there is none that an attack could follow. The "
        "accuracy under such attacks says nothing about this network."
    )


def verdict(report: Report) -> str:
    """The verdict, in a sentence."""
    said = VERDICTS[report.verdict]
    failed = [c.name for c in report.criteria if c.outcome == "fail"]
    if failed:
        one = "this criterion does" if len(failed) == 1 else f"these {len(failed)} criteria do"
        return f"{said}: {one} not hold: {_quoted(failed)}. The figures may flatter the network."
    core = [c for c in report.criteria if c.core]
    if not core:
        return f"{said}: no criterion was tested, so the figures are unverified."
    open_ = [c for c in core if c.outcome != "pass"]
    if not open_:
        return f"{said}: all {len(core)} core criteria hold. The attacks worked; a better one may still exist."
    return f"{said}: of {len(core)} core criteria {len(open_)} {'is' if len(open_) == 1 else 'are'} open, listed below."


def person(report: Report) -> list[str]:
    """The summary of a check in a few plain sentences."""
    head = report.headline
    of_all = f"the worst case of {counted(len(report.within), 'attack')} within l∞ {fraction(report.epsilon)}"
    said = [
        f"Of 100 images, {100 * head.clean.value:.0f} are classified correctly without an attack, and "
        f"{_of_100(head.worst)} in {of_all}."
    ]
    if head.noise_adds is not None:
        said.append(_compared(head.noise_adds, "The noise itself", "adds", "costs"))
    if head.ahead is not None and report.baseline is not None:
        who = f"Compared with {report.baseline} under the same attacks, this network"
        said.append(_compared(head.ahead, who, "gains", "loses"))
    return said


def open_questions(report: Report) -> list[str]:
    """The criteria that neither pass nor fail, a line each, the core criteria first."""
    waiting = [c for c in report.criteria if c.outcome in ("undecided", "not measured")]
    waiting.sort(key=lambda c: not c.core)
    return [f"{c.name} ({c.outcome}{'' if c.core else ', not core'}): {_said(c)}" for c in waiting]


def worst(criterion: Criterion) -> Evidence | None:
    """The strongest evidence against a criterion; None without evidence."""
    return min(criterion.evidence, key=lambda e: (_RANK[e.outcome], e.limit + e.tolerance - e.estimate), default=None)


def evidence(e: Evidence) -> str:
    """The figures of a piece of evidence: ``-2.1 [-4.0, -0.3] (limit 0.0, tolerance 2.0)``."""
    tolerance = f", tolerance {percent(e.tolerance)}" if e.tolerance else ""
    return f"{percent(e.estimate, e.interval)} (limit {percent(e.limit)}{tolerance})"


def remarks(report: Report) -> list[str]:
    """How pixels reach the network, where the report has it, and what else there is to remark."""
    said = report.about.get("normalisation")
    return [*([f"{said}."] if isinstance(said, str) else []), *report.remarks]


def liveness(report: Report) -> list[str]:
    """Whether the noise is alive, a line for each finding."""
    live = report.liveness
    if not live.sites:
        foreign = not report.deterministic
        return ["none from perturbify, but the network is random" if foreign else "none in this network"]
    if live.failures:
        return [f"FAILED, {failure}" for failure in live.failures]
    alive = f"alive at {counted(live.sites, 'site')}"
    if live.skipped is None:
        return [alive]
    skipped = f", {live.skipped} skipped on purpose" if live.skipped else ""
    return [f"{alive} behind {live.perturbed} of {live.convolutions} convolution calls{skipped}"]


def answered(report: Report) -> list[str]:
    """How often a random network is right when asked again, in the worst case; empty for a deterministic one."""
    found = report.resubmissions
    if not found:
        return []
    return ["right in the worst case: " + "; ".join(f"{k} {percent(f.value, f.interval)}" for k, f in found.items())]


def method(report: Report) -> list[str]:
    """How it was measured and what the figures mean, a sentence or two each."""
    said = [
        "Adversarial images are crafted first. Then each is scored on fresh, independent draws of the noise, none "
        "of which the attack has seen; no image is dropped after one draw. Accuracy is the mean probability of being "
        "right.",
        "The worst case takes the worst attack for every image, chosen on one half of the draws and "
        "scored on the other. An image counts as lost, and is not attacked again, if none of at least 20 draws is "
        "right.",
        NOISE_MODES.get(report.noise_mode, f"Noise mode: {report.noise_mode}."),
        "Brackets are 95% score intervals over images, after Wilson (1927). They say how much the figures depend on "
        "which images were drawn, and nothing about another training run or a better attack.",
        "An attack that fails proves nothing about the next one: all accuracies under attack are upper bounds.",
        "Differences are paired: both attacks on the same images. A criterion passes if the whole interval is at "
        "most limit + tolerance, fails if the whole interval is beyond, and is undecided in between.",
    ]
    if report.deterministic:
        said[:2] = [
            "Adversarial images are crafted first and then scored in another pass. The network is deterministic, "
            "so one pass scores each image.",
            "The worst case takes the worst attack for every image. An image that one attack wins is "
            "not attacked again, so AutoAttack's attacks together, where run, reach AutoAttack's own figure.",
        ]
    return said


def sentence(report: Report) -> str:
    """The main figures as a paper should report them."""
    head, clean = report.headline, report.headline.clean
    best = None if head.best_attack is None else report.result(head.best_attack)
    said = (
        f"{report.name} has an accuracy of {percent(clean.value, clean.interval)}% on clean images and of "
        f"{percent(head.worst.value, head.worst.interval)}% in the worst case per image over all l∞ attacks tried "
        f"within ε = {fraction(report.epsilon)}"
    )
    if best is not None and head.best is not None:
        said += (
            f"; the strongest single one, {called(best)} ({settings(best.settings)}), leaves "
            f"{percent(head.best.value, head.best.interval)}%"
        )
    draws = "one pass" if report.clean.draws == 1 else f"{report.clean.draws} fresh draws of the noise"
    return (
        f"{said}; on {report.n} test images of {report.dataset}, 95% score intervals over images, {draws} for "
        f"each image; credibility: {report.verdict} (perturbify check, preset {report.preset}, seed "
        f"{report.seed})."
    )


def _of_100(figure: Figure) -> str:
    low, high = figure.interval
    return f"{100 * figure.value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def _compared(figure: Figure, who: str, more: str, less: str) -> str:
    """A difference in points, if its interval confirms one."""
    low, high = figure.interval
    if low > 0:
        return f"{who} {more} {percent(figure.value, figure.interval)} points."
    if high < 0:
        return f"{who} {less} {percent(-figure.value, (-high, -low))} points."
    return f"{who} {more} nothing that this check can confirm: {percent(figure.value, figure.interval)} points."


def _said(criterion: Criterion) -> str:
    found = worst(criterion)
    said = [] if found is None else [f"{found.statement}: {evidence(found)}"]
    said += [criterion.detail] if criterion.detail else []
    return "; ".join(said) or "the attacks that it needs were not run"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _survival(report: Report, result: Result, queries: int) -> str:
    if queries not in result.survival or result.draws == 1:
        return "–"
    clean = report.clean.survival.get(queries)
    alone = f" ({percent(clean.value)})" if result.norm and clean is not None and result.n == report.n else ""
    return percent(result.survival[queries].value) + alone
