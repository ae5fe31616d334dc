"""A report for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from perturbify.checks.render import words
from perturbify.checks.report import NOT_ELIGIBLE, Report
from perturbify.checks.results import Result
from perturbify.escape import terminal
from perturbify.text import fill, percent, table

WIDTH, LONGEST_LINE = 80, 100
"""The columns of a terminal without a known width, and the most that a line of prose takes."""


def to_text(report: Report, width: int | None = WIDTH) -> str:
    """Renders a report as plain text: the summary, the attacks, the criteria that fail and those that are open.

    Args:
        report: Any report.
        width: Columns of the terminal; None: every column of the table of attacks, however wide.

    Returns:
        Lines of at most ``width`` columns, except for longer words, without a newline at the end; foreign text is made
        safe for a terminal.
    """

    def _fill(text: str, indent: str = "") -> str:
        return fill(terminal(text), min(width or LONGEST_LINE, LONGEST_LINE), indent)

    def _item(text: str) -> str:
        return _fill(text, "  ")

    dead = words.dead(report)
    lines = [
        *([_fill(dead), ""] if dead else []),
        _fill(f"{report.name}: {words.subject(report)}"),
        "",
        *map(_fill, words.person(report)),
        _fill(words.verdict(report)),
        "",
        _table(report, "itself", width),
        "",
    ]
    if report.baseline is not None:
        lines += [_fill(f"{report.baseline}, under the same attacks:"), "", _table(report, report.baseline, width), ""]
    held = [c.name for c in report.criteria if c.outcome == "pass"]
    lines += [_item(f"FAILED: {failure}") for failure in report.failures]
    lines += [_item(f"open: {question}") for question in words.open_questions(report)]
    lines += [_item(f"holds: {'; '.join(held)}")] if held else []
    lines += [_item(said) for said in words.answered(report)]
    lines += [_item(f"noise: {finding}") for finding in words.liveness(report)]
    lines += [_item(f"remark: {remark}") for remark in words.remarks(report)]
    if not report.deterministic:
        lines.append(_item(f"remark: {NOT_ELIGIBLE}"))
    return "\n".join(lines)


def _table(report: Report, network: str, width: int | None) -> str:
    """The attacks on one network."""
    chosen = [i for i, r in enumerate(report.results) if r.network == network]
    if width is not None:
        return table(_rows([report.results[i] for i in chosen]), width, ("n", "crafted on"))
    columns = [c for c in words.columns(report) if c.head != "network"]
    return table([[c.head for c in columns], *([c.cells[i] for c in columns] for i in chosen)])


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    head = ("attack", "crafted on", "n", words.ACCURACY)
    rows = [
        (
            _short(r.attack, 40),
            _short(words.crafted_on(r) if r.norm else f"noise {r.noise}", 17),
            str(r.n) if r.attacked == r.n else f"{r.attacked} of {r.n}",
            percent(r.accuracy, r.interval),
        )
        for r in results
    ]
    return [head, *rows]


def _short(text: str, most: int) -> str:
    shown = terminal(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
