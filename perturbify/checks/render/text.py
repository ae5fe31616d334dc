"""A report for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from perturbify.checks.render import words
from perturbify.checks.report import NOT_ELIGIBLE, Report
from perturbify.checks.results import Result
from perturbify.escape import terminal
from perturbify.text import percent, table

WIDTH = 80
"""Columns that a terminal has."""


def to_text(report: Report) -> str:
    """Renders a report as plain text: what it comes down to, the attacks, what does not hold and what is open.

    Args:
        report: Any report.

    Returns:
        Lines of at most 80 columns, words longer than that aside, without a newline at the end; foreign text is fit for
        a terminal.
    """
    dead = words.dead(report)
    lines = [
        *([_fill(dead), ""] if dead else []),
        _fill(f"{report.name}: {words.subject(report)}"),
        "",
        *map(_fill, words.person(report)),
        _fill(words.verdict(report)),
        "",
        table(_rows([r for r in report.results if r.network == "itself"]), WIDTH),
        "",
    ]
    if report.baseline is not None:
        theirs = [r for r in report.results if r.network == report.baseline]
        lines += [terminal(f"{report.baseline}, under the same attacks:"), "", table(_rows(theirs), WIDTH), ""]
    held = [c.name for c in report.criteria if c.outcome == "pass"]
    lines += [_item(f"FAILED: {failure}") for failure in report.failures]
    lines += [_item(f"open: {question}") for question in words.open_questions(report)]
    lines += [_item(f"holds: {'; '.join(held)}")] if held else []
    lines += [_item(said) for said in words.answered(report)]
    lines += [_item(f"noise: {finding}") for finding in words.liveness(report)]
    lines += [_item(f"remark: {remark}") for remark in report.remarks]
    if not report.deterministic:
        lines.append(_item(f"remark: {NOT_ELIGIBLE}"))
    return "\n".join(lines)


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


def _fill(text: str) -> str:
    return textwrap.fill(terminal(text), WIDTH, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> str:
    return textwrap.fill(terminal(text), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
