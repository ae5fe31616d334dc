"""A table with our figures beside the paper's, for people and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perturbify.checks import Report, Result
from perturbify.escape import markdown, terminal
from perturbify.reproduction.differences import Difference, differences
from perturbify.reproduction.job import Job, Reproduction
from perturbify.reproduction.paper import NETWORKS, table
from perturbify.reproduction.run import Outcome
from perturbify.text import percent
from perturbify.text import table as aligned

SCHEMA = 2
NONE = "–"
WORST = "worst case"
"""Of every image over all l∞ attacks within ε."""


@dataclass(frozen=True)
class Column:
    """An attack of a table.

    Attributes:
        id: Of its result in a check.
        head: What heads it, and names it where it was not measured.
    """

    id: str
    head: str


def to_dict(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The table as JSON values; all accuracies are in [0, 1], the paper's as well."""
    return {
        "schema": SCHEMA,
        "table": reproduction.table,
        "source": f"Learn2Perturb (CVPR 2020), {reproduction.table}: {table(reproduction.table).caption}",
        "complete": all(o.report is not None for o in outcomes),
        "rows": [_row(reproduction, o) for o in outcomes],
    }


def to_text(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> str:
    """The table for the terminal; below it what could not be run, what failed, and how this differs from the paper."""
    return "\n".join(
        [
            _title(reproduction),
            "",
            aligned(_cells(reproduction, outcomes, terminal)),
            *_below(reproduction, outcomes, terminal),
        ]
    )


def to_markdown(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> str:
    """The table for a README."""
    head, *rows = _cells(reproduction, outcomes, markdown)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([f"# {_title(reproduction)}", "", *lines, *_below(reproduction, outcomes, markdown)]) + "\n"


def _below(reproduction: Reproduction, outcomes: Sequence[Outcome], fit: Callable[[str], str]) -> list[str]:
    """What a reader must know beside the table, as lists; ``fit`` makes an entry fit for where it goes."""
    lists = {
        "Not run:": [f"{o.job.name}: {o.why}" for o in outcomes if o.why is not None],
        "Criteria of the checks that failed:": [f"{o.job.name}: {f}" for o in outcomes for f in _failures(o)],
        "Where this differs from the paper's protocol:": _departures(reproduction, outcomes),
        "Remarks of the checks:": _remarks(outcomes),
    }
    lines: list[str] = []
    for head, entries in lists.items():
        lines += ["", head, "", *(f"- {fit(entry)}" for entry in entries)] if entries else []
    return lines


def _title(reproduction: Reproduction) -> str:
    number = reproduction.table.removeprefix("table")
    return (
        f"Learn2Perturb, table {number}: {table(reproduction.table).caption}. In percent, with 95% intervals over "
        "images; beside them the paper's"
    )


def _columns(job: Job) -> dict[str, Column]:
    """The attacks of a job, by the paper's names."""
    plan, found = job.plan, {"clean": Column("clean", "clean")}
    if "pgd" in plan.attacks:
        found |= {"PGD": Column("pgd", f"PGD-{plan.steps}"), "FGSM": Column("fgsm", "FGSM")}
    if "cw" in plan.attacks:
        found |= {f"C&W, κ = {k:g}": Column(f"cw-{k:g}", f"C&W, κ = {k:g}") for k in plan.confidences}
    return found | {"EOT-PGD": Column("eot", f"EOT-PGD-{plan.steps}")}


def _measured(report: Report | None, column: Column) -> Result | None:
    return None if report is None else report.result(column.id)


def _row(reproduction: Reproduction, outcome: Outcome) -> dict[str, Any]:
    job, report = outcome.job, outcome.report
    figures = []
    for attack, column in _columns(job).items():
        row, paper = _measured(report, column), job.paper.get(attack)
        figures.append(
            {
                "attack": attack,
                "paper": None if paper is None else round(paper / 100, 6),
                "name": None if row is None else row.attack,
                "accuracy": None if row is None else row.accuracy,
                "interval": None if row is None else list(row.interval),
                "claimed": None if row is None else row.claimed,
                "n": None if row is None else row.n,
                "draws": None if row is None else row.draws,
            }
        )
    return {
        "network": job.network,
        "method": job.method,
        "run": job.name,
        "status": "finished" if report is not None else "to do" if outcome.why is None else "not run",
        "why": outcome.why,
        "recipe": None if job.recipe is None else job.recipe.name,
        "epochs": None if job.recipe is None else job.recipe.train.epochs,
        "verdict": None if report is None else report.verdict,
        "worst_case": None if report is None else asdict(report.headline.worst),
        "failures": _failures(outcome),
        "remarks": [] if report is None else list(report.remarks),
        "figures": figures,
        "differences": [asdict(d) for d in _differences(reproduction, outcome)],
    }


def _failures(outcome: Outcome) -> list[str]:
    return [] if outcome.report is None else outcome.report.failures


def _differences(reproduction: Reproduction, outcome: Outcome) -> tuple[Difference, ...]:
    return differences(reproduction, outcome.job, outcome.data, outcome.report)


def _departures(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> list[str]:
    """Each difference once, those in one respect together."""
    said = {o.job.name: _differences(reproduction, o) for o in outcomes if o.report is not None}
    whats = list(dict.fromkeys(d.what for found in said.values() for d in found))
    in_order = sorted({d: None for found in said.values() for d in found}, key=lambda d: whats.index(d.what))
    return [f"{d}{_of({name for name in said if d in said[name]}, said)}" for d in in_order]


def _remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """Each remark of the checks once."""
    said = {o.job.name: o.report.remarks for o in outcomes if o.report is not None}
    remarks = dict.fromkeys(r for found in said.values() for r in found)
    return [f"{r}{_of({name for name in said if r in said[name]}, said)}" for r in remarks]


def _of(names: Collection[str], every: Collection[str]) -> str:
    """Which rows something is true of, where those are not all that were run."""
    return "" if len(names) == len(every) else f" ({', '.join(name for name in every if name in names)})"


def _cells(reproduction: Reproduction, outcomes: Sequence[Outcome], fit: Callable[[str], str]) -> list[list[str]]:
    return _long(outcomes, fit) if reproduction.table == "table3" else _wide(outcomes)


def _wide(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A line a job, a column an attack."""
    columns: dict[str, list[str]] = {}
    for outcome in outcomes:
        for attack, column in _columns(outcome.job).items():
            columns.setdefault(attack, []).append(column.head)
    heads = [" or ".join(dict.fromkeys(heads)) for heads in columns.values()]
    papers = ["clean", "PGD", "FGSM"]
    lines = [["network", "method", "epochs", "n", *heads, WORST, *(f"paper's {attack}" for attack in papers)]]
    for o in outcomes:
        cells = [_figure(_measured(o.report, column)) for column in _columns(o.job).values()]
        lines.append([*_named(o), *cells, _worst(o.report), *(f"{o.job.paper[attack]:.1f}" for attack in papers)])
    return lines


def _long(outcomes: Sequence[Outcome], fit: Callable[[str], str]) -> list[list[str]]:
    """A line for each job and attack, which is called as its report calls it."""
    lines = [["network", "method", "epochs", "attack", "n", "survived", "claimed by the attack", "paper's"]]
    for o in outcomes:
        network, method, epochs, images = _named(o)
        for attack, column in _columns(o.job).items():
            row, paper = _measured(o.report, column), o.job.paper.get(attack)
            n, claimed = (NONE, None) if row is None else (f"{row.n}", row.claimed)
            said = NONE if claimed is None else percent(claimed)
            theirs = NONE if paper is None else f"{paper:.1f}"
            name = column.head if row is None else fit(row.attack)
            lines.append([network, method, epochs, name, n, _figure(row), said, theirs])
        lines.append([network, method, epochs, WORST, images, _worst(o.report), NONE, NONE])
    return lines


def _named(outcome: Outcome) -> tuple[str, str, str, str]:
    job, report = outcome.job, outcome.report
    epochs = NONE if report is None or job.recipe is None else f"{job.recipe.train.epochs}"
    return NETWORKS[job.network], job.method, epochs, NONE if report is None else f"{report.n}"


def _figure(row: Result | None) -> str:
    return NONE if row is None else percent(row.accuracy, row.interval)


def _worst(report: Report | None) -> str:
    if report is None:
        return NONE
    worst = report.headline.worst
    return percent(worst.value, worst.interval)
