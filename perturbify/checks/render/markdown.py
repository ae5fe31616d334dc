"""A report for a paper's appendix or a README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perturbify.checks.evidence import Criterion
from perturbify.checks.render import words
from perturbify.checks.report import NOT_ELIGIBLE, Report
from perturbify.escape import markdown
from perturbify.text import percent

_OUTCOMES = {"fail": "**FAIL**"}


def to_markdown(report: Report) -> str:
    """Renders a report as GitHub Markdown: tables, and footnotes that say how it was measured.

    Args:
        report: Any report.

    Returns:
        A document that ends with a newline; foreign names are escaped.
    """
    dead = words.dead(report)
    lines = [
        *((f"**{markdown(dead)}**", "") if dead else ()),
        f"# Robustness of {markdown(report.name)}",
        "",
        f"{markdown(words.subject(report))}.{'' if report.deterministic else '[^leaderboard]'}",
        "",
        *(line for said in words.person(report) for line in (markdown(said), "")),
        f"**{markdown(words.verdict(report))}**",
        "",
    ]
    open_ = words.open_questions(report)
    if open_:
        lines += ["Open:", "", *_list(open_), ""]
    lines += ["## Accuracy[^measured]", "", *_accuracy(report), "", markdown(words.LEGEND), ""]
    if report.resubmissions:
        answers = [(markdown(name), markdown(percent(f.value, f.interval))) for name, f in report.resubmissions.items()]
        lines += ["## Asked again", "", *table(("right in the worst case", "% [95%]"), answers, (False, True)), ""]
    if report.criteria:
        pieces = [piece for criterion in report.criteria for piece in _evidence(criterion)]
        lines += [
            "## Criteria",
            "",
            *table(("criterion", "outcome", "evidence", "% [95%] (limit, tolerance)"), pieces),
            "",
        ]
    lines += ["## Noise", "", *_list(words.liveness(report)), ""]
    if remarks := words.remarks(report):
        lines += ["## Remarks", "", *_list(remarks), ""]
    lines += [
        *("## Settings", "", *_settings(report), ""),
        *(f"Measured with {markdown(words.settings(report.machine))}.", ""),
        *("## In a paper", "", f"> {markdown(words.sentence(report))}", ""),
        f"[^measured]: {' '.join(map(markdown, words.method(report)))}",
    ]
    if not report.deterministic:
        lines.append(f"[^leaderboard]: {markdown(NOT_ELIGIBLE)}")
    return "\n".join(lines) + "\n"


def _accuracy(report: Report) -> list[str]:
    columns = words.columns(report)
    cells = zip(*([markdown(cell) for cell in c.cells] for c in columns), strict=True)
    return table([c.head for c in columns], cells, [c.numeric for c in columns])


def _evidence(criterion: Criterion) -> list[tuple[str, str, str, str]]:
    """A line for each piece of evidence, and one for the remark; the first line has the criterion's name."""
    said = [(markdown(e.statement), markdown(words.evidence(e))) for e in criterion.evidence]
    said += [(markdown(criterion.detail), "–")] if criterion.detail or not said else []
    name = criterion.name if criterion.core else f"{criterion.name} (not core)"
    first = (markdown(name), _OUTCOMES.get(criterion.outcome, markdown(criterion.outcome)))
    return [(*(("", "") if i else first), *piece) for i, piece in enumerate(said)]


def _settings(report: Report) -> list[str]:
    cells = [
        [markdown(text) for text in (words.called(row), row.noise, words.settings(row.settings))]
        for row in report.results
        if row.norm
    ]
    return table(("attack", "noise", "settings"), cells)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """Lines of a table in Markdown; cells are not escaped.

    Args:
        head: Names of the columns.
        rows: Cells, row by row.
        right: Which columns are aligned to the right; by default none.
    """
    rule = ["---:" if i < len(right) and right[i] else "---" for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _list(sentences: Iterable[str]) -> list[str]:
    return [f"- {markdown(sentence)}" for sentence in sentences]
