"""A report for the terminal."""

from __future__ import annotations

import textwrap

from perturbify.checks.render import words
from perturbify.checks.report import NOT_ELIGIBLE, Criterion, Report
from perturbify.text import table

_VERDICTS = {"pass": "pass", "fail": "FAIL", "undecided": "undecided"}


def to_text(report: Report) -> str:
    """Renders a report as plain text: the table of attacks, a line a criterion, the noise, remarks, the verdict.

    Args:
        report: Any report.

    Returns:
        Lines without a newline at the end; control characters of foreign names are blanks.
    """
    columns = words.columns(report)
    rows = [[c.head for c in columns], *zip(*(c.cells for c in columns), strict=True)]
    lines = [
        f"{words.line(report.name)}: {words.subject(report)}",
        "",
        table(rows),
        "",
        textwrap.fill(words.LEGEND, 100),
        "",
    ]
    if report.criteria:
        criteria = [("criterion", "verdict", "worst evidence, in percent [95%]")]
        lines += [table(criteria + [_criterion(c) for c in report.criteria]), ""]
    lines += [f"noise: {finding}" for finding in words.liveness(report)]
    lines += [f"remark: {words.line(remark)}" for remark in report.remarks]
    if not report.deterministic:
        lines.append(f"remark: {NOT_ELIGIBLE}")
    return "\n".join([*lines, words.verdict(report)[1]])


def _criterion(criterion: Criterion) -> tuple[str, str, str]:
    worst = words.worst(criterion)
    said = [] if worst is None else [f"{words.line(worst.statement)}: {words.evidence(worst)}"]
    said += [words.line(criterion.detail)] if criterion.detail else []
    return words.line(criterion.name), _VERDICTS[criterion.verdict], "; ".join(said) or "–"
