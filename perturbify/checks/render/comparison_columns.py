"""The columns and the notes of a comparison, for every output format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perturbify.checks.comparison import Comparison, Entry, Group
from perturbify.checks.results import Figure, Result
from perturbify.checks.runs import Pooled, Spread
from perturbify.text import fraction, percent

NONE = "–"

Row = Group | Entry


@dataclass(frozen=True)
class Column:
    """A column of a comparison.

    Attributes:
        head: Its head.
        cells: A cell for each row: a figure, and its interval or an empty string.
        numeric: Whether its cells are figures.
    """

    head: str
    cells: tuple[tuple[str, str], ...]
    numeric: bool = True


def rows(comparison: Comparison) -> list[Row]:
    """A row for each group and, below a group of several runs, one for each run."""
    found: list[Row] = []
    for group in comparison.groups:
        found += [group, *(group.entries if len(group.entries) > 1 else ())]
    return found


def names(shown: list[Row]) -> Column:
    """The name of each row; for a group's single run, its seed."""
    return Column("network", tuple((_name(row), "") for row in shown), numeric=False)


def accuracies(comparison: Comparison, shown: list[Row]) -> list[Column]:
    """The main figures."""

    def cell(id: str) -> Callable[[Row], tuple[str, str]]:
        return lambda row: _accuracy(row.figure(id) if isinstance(row, Group) else row.figures.get(id), comparison)

    return [Column(head, tuple(map(cell(id), shown))) for id, head in comparison.heads.items()]


def about(shown: list[Row]) -> list[Column]:
    """The networks' sizes, and how long they take to answer."""
    entries = [[row] if isinstance(row, Entry) else list(row.entries) for row in shown]
    return [
        Column("method", tuple((e[0].method or NONE, "") for e in entries), numeric=False),
        Column("weights", tuple((f"{e[0].weights:,}", "") for e in entries)),
        Column("θ", tuple((f"{e[0].theta:,}" if e[0].theta else NONE, "") for e in entries)),
        Column("ms/image", tuple((_latency(e), "") for e in entries)),
    ]


def outcome(comparison: Comparison, shown: list[Row]) -> list[Column]:
    """The worst case, and each group's difference to the first."""
    worst = (row.worst if isinstance(row, Group) else row.report.headline.worst for row in shown)
    found = [Column("worst case", tuple(_accuracy(figure, comparison) for figure in worst))]
    if len(comparison.groups) > 1:
        aheads = [row.ahead if isinstance(row, Group) else None for row in shown]
        images = (None if a is None else Figure(a.value, a.over_images) for a in aheads)
        found.append(Column(f"ahead of {comparison.groups[0].name}", tuple(_figure(figure) for figure in images)))
        if any(a is not None and a.over_runs is not None for a in aheads):
            runs = (None if a is None or a.over_runs is None else Figure(a.value, a.over_runs) for a in aheads)
            found.append(Column("ahead, over runs", tuple((NONE, "") if f is None else _figure(f) for f in runs)))
    return found


def subject(comparison: Comparison) -> str:
    """What was attacked, and how."""
    plan, first = comparison.plan, comparison.entries[0].report
    said = [f"{first.n} test images of {first.dataset}", f"l∞ ε = {fraction(plan.epsilon)}", *adversary(comparison)]
    over = ", mean ± sd over training runs" if comparison.several else ""
    return f"{', '.join(said)}, seed {plan.seed}; accuracy in percent{over} [95%]"


def adversary(comparison: Comparison) -> list[str]:
    """The settings of the attacks that were run."""
    plan, eot = comparison.plan, "eot" in comparison.plan.attacks
    said = [f"PGD by {plan.steps} steps of {fraction(plan.step)}"] if eot or "pgd" in plan.attacks else []
    return said + ([f"EOT over {plan.eot_draws} draws a step"] if eot else [])


def seeds(comparison: Comparison) -> str:
    """The seeds of the groups of several runs, only once if all groups have the same."""
    said = {g.name: ", ".join(str(e.seed) for e in g.entries) for g in comparison.groups if len(g.entries) > 1}
    if len(said) == len(comparison.groups) and len(set(said.values())) == 1:
        return f"seeds {next(iter(said.values()))}"
    return "seeds " + "; ".join(f"{own} of {name}" for name, own in said.items())


def over_runs(comparison: Comparison) -> list[str]:
    """Notes on runs: what the spread and the intervals are over."""
    if not comparison.several:
        return []
    said = [
        f"mean ± sd: over training runs that differ only in their seed ({seeds(comparison)}); a single run has no "
        "sd. Next to it, the interval over images, runs pooled: an image counts by its mean over runs and draws, and "
        "these runs are taken as given."
    ]
    if any(g.ahead is not None and g.ahead.over_runs is not None for g in comparison.groups):
        said.append(
            "ahead, over runs: Welch's 95% interval for the difference of the means over training runs, on these "
            "images. A difference is decided if both intervals lie on the same side of 0."
        )
    return said


def averaged(comparison: Comparison) -> list[str]:
    """How a random network's figures are measured."""
    plan, entries = comparison.plan, comparison.entries
    said = []
    if not all(e.report.deterministic for e in entries):
        said.append(
            f"A figure with noise is the mean over {plan.draws} fresh draws for each image, none of which the attack "
            "has seen."
        )
    return said + [
        f"{e.name} averages {e.latency.draws} draws for an answer; each image has {e.report.clean.draws} answers."
        for e in entries
        if e.latency.draws > 1
    ]


def ahead(comparison: Comparison) -> list[str]:
    """What the worst case is, and how two are compared."""
    if len(comparison.groups) < 2:
        return []
    pooled = ", runs pooled" if comparison.several else ""
    return [
        "worst case: every image under its worst attack, chosen on other draws than those that "
        f"score it. ahead of {comparison.groups[0].name}: the paired difference in the worst case, in points{pooled}. "
        "An interval that contains 0 decides nothing."
    ]


def spread(figure: Spread) -> str:
    """Mean ± standard deviation in percent; a single run has no deviation."""
    return f"{percent(figure.mean)} ± {NONE if figure.sd is None else percent(figure.sd)}"


def _name(row: Row) -> str:
    return row.name if isinstance(row, Group) else f"· seed {row.seed}"


def _accuracy(figure: Pooled | Result | Figure | None, comparison: Comparison) -> tuple[str, str]:
    if figure is None:
        return NONE, ""
    if not isinstance(figure, Pooled):
        return _figure(figure if isinstance(figure, Figure) else figure.figure)
    mean, interval = figure.over_runs.mean, figure.over_images
    return spread(figure.over_runs) if comparison.several else percent(mean), _interval(interval)


def _figure(figure: Figure | None) -> tuple[str, str]:
    return (NONE, "") if figure is None else (percent(figure.value), _interval(figure.interval))


def _interval(bounds: tuple[float, float]) -> str:
    return percent(0, bounds).partition(" ")[2]


def _latency(entries: list[Entry]) -> str:
    times = [e.latency.milliseconds for e in entries]
    draws = entries[0].latency.draws
    return f"{sum(times) / len(times):.3g}" + (f" ({draws} draws)" if draws > 1 else "")
