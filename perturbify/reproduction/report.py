"""A table with our figures beside the paper's, for people and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

from perturbify.escape import markdown, terminal
from perturbify.reproduction.differences import Difference, differences
from perturbify.reproduction.job import Reproduction
from perturbify.reproduction.paper import NETWORKS, table
from perturbify.reproduction.rows import Measured, Row, rows, without_figures
from perturbify.reproduction.run import Outcome
from perturbify.text import percent
from perturbify.text import table as aligned

SCHEMA = 3
NONE = "–"
WORST = "worst case"
"""The worst case of every image over all l∞ attacks within ε."""

_WORST = (
    "Worst case: every image under the l∞ attack within ε that leaves the lowest accuracy, the margin attack among "
    "them; chosen on other draws than those that score it."
)
SUPPLEMENT = "The paper's figures for CIFAR-100 are in its supplement, which is not available here."


def to_dict(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The table as JSON values; all accuracies are in [0, 1], the paper's as well."""
    paper = table(reproduction.table)
    return {
        "schema": SCHEMA,
        "table": paper.name,
        "source": f"Learn2Perturb (CVPR 2020), {paper.called}: {paper.caption}",
        "complete": all(o.report is not None for o in outcomes),
        "seeds": list(reproduction.seeds),
        "remarks": _of_the_paper(reproduction, outcomes),
        "rows": [_run(reproduction, row, o) for row in rows(reproduction, outcomes) for o in row.outcomes],
        "over_runs": [_over_runs(row) for row in rows(reproduction, outcomes)],
    }


def to_text(reproduction: Reproduction, outcomes: Sequence[Outcome], width: int | None = None) -> str:
    """The table for the terminal; below it what could not be run, what failed, and how this differs from the paper.

    ``width`` is as for :func:`perturbify.text.table`.
    """
    cells = _cells(reproduction, outcomes, terminal)
    least = sorted(cells[0][2:], key=lambda head: head == WORST or head.startswith("paper's"))
    return "\n".join(
        [
            _title(reproduction),
            "",
            aligned(cells, width, least),
            *_below(reproduction, outcomes, terminal),
        ]
    )


def to_markdown(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> str:
    """The table for a README."""
    head, *lines = _cells(reproduction, outcomes, markdown)
    written = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
    return "\n".join([f"# {_title(reproduction)}", "", *written, *_below(reproduction, outcomes, markdown)]) + "\n"


def _below(reproduction: Reproduction, outcomes: Sequence[Outcome], fit: Callable[[str], str]) -> list[str]:
    """Notes on the table, as lists; ``fit`` makes an entry fit for the output format."""
    found = rows(reproduction, outcomes)
    lists = {
        "Not run:": [f"{o.job.name}: {o.why}" for o in outcomes if o.why is not None],
        "Criteria of the checks that failed:": [f"{o.job.name}: {f}" for o in outcomes for f in _failures(o)],
        "Of the paper's figures:": _of_the_paper(reproduction, outcomes),
        "Where this differs from the paper, or from its authors' release:": _departures(reproduction, found),
        "Remarks of the checks:": _remarks(found),
    }
    lines = ["", _WORST]
    for head, entries in lists.items():
        lines += ["", head, "", *(f"- {fit(entry)}" for entry in entries)] if entries else []
    return lines


def _title(reproduction: Reproduction) -> str:
    paper, several = table(reproduction.table), len(reproduction.seeds) > 1
    ours = "mean ± standard deviation over training runs, and" if several else "with"
    return (
        f"Learn2Perturb, {paper.called}: {paper.caption}. In percent, {ours} 95% intervals over images; beside them "
        "the paper's"
    )


def _run(reproduction: Reproduction, row: Row, outcome: Outcome) -> dict[str, Any]:
    """One training run of a row."""
    job, report = outcome.job, outcome.report
    figures = []
    for attack, column in row.columns.items():
        result = None if report is None else report.result(column.id)
        figures.append(
            {
                "attack": attack,
                **_paper(row, attack),
                "name": None if result is None else result.attack,
                "accuracy": None if result is None else result.accuracy,
                "interval": None if result is None else list(result.interval),
                "claimed": None if result is None else result.claimed,
                "n": None if result is None else result.n,
                "draws": None if result is None else result.draws,
            }
        )
    return {
        "network": job.network,
        "method": job.method,
        "seed": job.seed,
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


def _over_runs(row: Row) -> dict[str, Any]:
    """A row over its training runs."""
    return {
        "network": row.network,
        "method": row.method,
        "runs": [o.job.name for o in row.outcomes],
        "worst_case": _figures(row.worst()),
        "figures": [
            {"attack": attack, **_paper(row, attack), **_figures(row.measured(attack))} for attack in row.columns
        ],
    }


def _figures(measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return {"runs": 0, "mean": None, "sd": None, "interval": None, "n": None}
    return {key: getattr(measured, key) for key in ("runs", "mean", "sd", "interval", "n")}


def _paper(row: Row, attack: str) -> dict[str, Any]:
    cell = row.paper.get(attack)
    return {"paper": cell and cell.value, "paper_spread": cell and cell.spread}


def _failures(outcome: Outcome) -> list[str]:
    return [] if outcome.report is None else outcome.report.failures


def _of_the_paper(reproduction: Reproduction, outcomes: Sequence[Outcome]) -> list[str]:
    """Remarks on what is odd about the paper's figures, or missing."""
    if any(without_figures(o) for o in outcomes):
        return [SUPPLEMENT]
    return list(table(reproduction.table).remarks)


def _differences(reproduction: Reproduction, outcome: Outcome) -> tuple[Difference, ...]:
    return differences(reproduction, outcome.job, outcome.data, outcome.report, outcome.theta)


def _departures(reproduction: Reproduction, found: Sequence[Row]) -> list[str]:
    """Each difference once, grouped by setting."""
    finished = [o for row in found for o in row.outcomes if o.report is not None]
    said = {o.job.name: _differences(reproduction, o) for o in finished}
    whats = list(dict.fromkeys(d.what for listed in said.values() for d in listed))
    in_order = sorted({d: None for listed in said.values() for d in listed}, key=lambda d: whats.index(d.what))
    return [f"{d}{_of({name for name in said if d in said[name]}, found)}" for d in in_order]


def _remarks(found: Sequence[Row]) -> list[str]:
    """Each remark of the checks once."""
    said = {o.job.name: o.report.remarks for row in found for o in row.outcomes if o.report is not None}
    remarks = dict.fromkeys(r for listed in said.values() for r in listed)
    return [f"{r}{_of({name for name in said if r in said[name]}, found)}" for r in remarks]


def _of(names: Collection[str], found: Sequence[Row]) -> str:
    """The finished runs for which something holds, unless it holds for all; a whole row by its name."""
    every = {row.name: [o.job.name for o in row.outcomes if o.report is not None] for row in found}
    if len(names) == sum(map(len, every.values())):
        return ""
    said: list[str] = []
    for row, runs in every.items():
        true = [run for run in runs if run in names]
        said += [row] if true and true == runs else true
    return f" ({', '.join(said)})"


def _cells(reproduction: Reproduction, outcomes: Sequence[Outcome], fit: Callable[[str], str]) -> list[list[str]]:
    found, several = rows(reproduction, outcomes), len(reproduction.seeds) > 1
    if table(reproduction.table).long:
        return _long(found, several, fit)
    return _wide(found, several, table(reproduction.table).stated)


def _wide(found: Sequence[Row], several: bool, stated: Sequence[str]) -> list[list[str]]:
    """One line per row, one column per attack."""
    heads: dict[str, dict[str, None]] = {}
    for row in found:
        for attack, column in row.columns.items():
            heads.setdefault(attack, {})[column.head] = None
    called = [" or ".join(names) for names in heads.values()]
    lines = [[*_heads(several), *called, WORST, *(f"paper's {attack}" for attack in stated)]]
    for row in found:
        cells = [_figure(row.measured(attack), several) for attack in heads]
        theirs = [_theirs(row, attack) for attack in stated]
        lines.append([*_named(row, several), *cells, _figure(row.worst(), several), *theirs])
    return lines


def _long(found: Sequence[Row], several: bool, fit: Callable[[str], str]) -> list[list[str]]:
    """One line for each row and attack, named as in its report."""
    *heads, n = _heads(several)
    lines = [[*heads, "attack", n, "survived", "claimed by the attack", "paper's"]]
    for row in found:
        *named, images = _named(row, several)
        for attack, column in row.columns.items():
            measured = row.measured(attack)
            claimed = NONE if measured is None or measured.claimed is None else percent(measured.claimed)
            name, of = (column.head, NONE) if measured is None else (fit(measured.name), f"{measured.n}")
            lines.append([*named, name, of, _figure(measured, several), claimed, _theirs(row, attack)])
        lines.append([*named, WORST, images, _figure(row.worst(), several), NONE, NONE])
    return lines


def _heads(several: bool) -> list[str]:
    return ["network", "method", "epochs", *(["runs"] if several else []), "n"]


def _named(row: Row, several: bool) -> list[str]:
    done = [o for o in row.outcomes if o.report is not None]
    epochs = dict.fromkeys(f"{o.job.recipe.train.epochs}" for o in done if o.job.recipe is not None)
    images = dict.fromkeys(f"{report.n}" for report in row.reports)
    runs = [f"{len(done)} of {len(row.outcomes)}"] if several else []
    return [NETWORKS[row.network], row.method, " or ".join(epochs) or NONE, *runs, " or ".join(images) or NONE]


def _theirs(row: Row, attack: str) -> str:
    cell = row.paper.get(attack)
    return NONE if cell is None else cell.text


def _figure(measured: Measured | None, several: bool) -> str:
    if measured is None:
        return NONE
    if not several:
        return percent(measured.mean, measured.interval)
    sd = NONE if measured.sd is None else percent(measured.sd)
    return f"{percent(measured.mean)} ± {sd} {percent(measured.mean, measured.interval).partition(' ')[2]}"
