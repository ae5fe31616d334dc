"""Reports and comparisons as Python and notebooks show them: the headline, the verdict, and a small table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbify.checks.criteria import called
from perturbify.display import accuracy, fitted, lines, page, some
from perturbify.text import counted, fraction, percent

if TYPE_CHECKING:
    from perturbify.checks.comparison import Comparison, Group
    from perturbify.checks.report import Report
    from perturbify.checks.results import Result
    from perturbify.display import Fact

FEW = 8
"""The most networks of a comparison that get a line each."""


def report_lines(report: Report) -> str:
    """A report in a few lines."""
    end = "to_frame() has all attacks; print(perturbify.checks.render.to_text(report))"
    return lines(f"Report: {report.verdict}", _report(report), end)


def report_page(report: Report) -> str:
    """A report as HTML: the clean images, then the attacks on the network itself, strongest first."""
    rows = sorted((r for r in report.results if r.network == "itself"), key=lambda r: (r.norm is not None, r.accuracy))
    table = [(called(r), _where(r), str(r.n), percent(r.accuracy, r.interval)) for r in rows]
    head = ("attack", "noise", "n", "accuracy % [95%]")
    return page(f"Report: {report.verdict}", _report(report), head, table, "to_frame() has everything.")


def comparison_lines(comparison: Comparison) -> str:
    """A comparison in a few lines, one a group."""
    groups = comparison.groups
    facts = [(fitted(g.name, 24), _accuracies(g, comparison)) for g in groups[:FEW]]
    more = f"… and {len(groups) - FEW:,} more; " if len(groups) > FEW else ""
    return lines(
        f"Comparison of {counted(len(comparison.entries), 'network')}",
        [("images", _images(comparison)), *facts],
        f"{more}to_frame() has each network under each attack",
    )


def comparison_page(comparison: Comparison) -> str:
    """A comparison as HTML, a row for each group."""
    heads, first = comparison.heads, comparison.groups[0]
    rows = []
    for group in comparison.groups:
        figures = [group.figure(id) for id in heads]
        cells = ["–" if f is None else percent(f.over_runs.mean, f.over_images) for f in (*figures, group.worst)]
        rows.append((group.name, *cells, "–" if group.ahead is None else _ahead(group)))
    head = ("network", *heads.values(), "worst case", f"ahead of {first.name}")
    if len(comparison.groups) == 1:
        head, rows = head[:-1], [row[:-1] for row in rows]
    about = [("accuracy", f"in percent [95%]; {_images(comparison)}")]
    return page(f"Comparison of {counted(len(comparison.entries), 'network')}", about, head, rows)


def _report(report: Report) -> list[Fact]:
    head, dead = report.headline, report.dead_gradients
    best = None if head.best_attack is None else report.result(head.best_attack)
    criteria = {kind: [c.name for c in report.criteria if c.outcome == kind] for kind in ("fail", "undecided")}
    open_ = criteria["undecided"] + [c.name for c in report.criteria if c.outcome == "not measured"]
    return [
        ("network", ", ".join(fitted(part, 33) for part in dict.fromkeys((report.name, report.architecture)))),
        ("images", f"{report.n:,} of {fitted(report.dataset, 24)}, {_adversary(report)}"),
        ("dead", "" if dead is None else f"GRADIENTS ARE DEAD on {percent(dead)} % of the images"),
        ("clean", accuracy(head.clean.value, head.clean.interval)),
        ("worst case", f"{accuracy(head.worst.value, head.worst.interval)}, {counted(len(report.within), 'attack')}"),
        ("strongest", "" if best is None else f"{_percent(best)}, {called(best)}"),
        ("noise adds", "" if head.noise_adds is None else _points(head.noise_adds.value, head.noise_adds.interval)),
        (
            "ahead",
            "" if head.ahead is None else f"{_points(head.ahead.value, head.ahead.interval)} of {report.baseline}",
        ),
        ("failed", some(criteria["fail"], len(criteria["fail"]), 3)),
        ("open", some(open_, len(open_), 3)),
    ]


def _adversary(report: Report) -> str:
    return f"l∞ ε = {fraction(report.epsilon)}, {fitted(report.preset, 12)}, seed {report.seed}"


def _images(comparison: Comparison) -> str:
    first = comparison.entries[0].report
    return f"{first.n:,} of {fitted(first.dataset, 30)}, l∞ ε = {fraction(comparison.plan.epsilon)}"


def _accuracies(group: Group, comparison: Comparison) -> str:
    clean, worst = group.figure("clean"), group.worst
    said = [] if clean is None else [f"clean {percent(clean.over_runs.mean)}"]
    said.append(f"worst case {percent(worst.over_runs.mean, worst.over_images)}")
    if comparison.several:
        said.append(counted(len(group.entries), "run"))
    return ", ".join(said)


def _ahead(group: Group) -> str:
    return "" if group.ahead is None else percent(group.ahead.value, group.ahead.over_images)


def _points(value: float, interval: tuple[float, float]) -> str:
    return f"{percent(value, interval)} points"


def _percent(result: Result) -> str:
    return accuracy(result.accuracy, result.interval)


def _where(result: Result) -> str:
    return f"noise {result.noise}"
