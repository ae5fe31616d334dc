"""A comparison as people read it: in a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from perturbify.checks.comparison import Comparison
from perturbify.checks.render import comparison_columns as columns
from perturbify.checks.render import markdown as page
from perturbify.checks.render.text import LONGEST_LINE, WIDTH
from perturbify.checks.render.words import Column
from perturbify.escape import markdown, terminal
from perturbify.text import WIDEST, fill, table


def to_text(comparison: Comparison, width: int | None = WIDTH) -> str:
    """Renders a comparison as plain text: a table of accuracies, one of sizes and times, and notes.

    Args:
        comparison: Any comparison.
        width: Columns of the terminal; None: one table, however wide.

    Returns:
        Lines without a newline at the end; foreign names are made safe for a terminal.
    """
    rows = columns.rows(comparison)
    figures, outcome = columns.accuracies(comparison, rows), columns.outcome(comparison, rows)
    name, *others = map(_shown, (columns.names(rows), *figures, *columns.about(rows), *outcome))
    prose = min(width or LONGEST_LINE, LONGEST_LINE)
    lines = [fill(terminal(columns.subject(comparison)), prose), ""]
    for fitting in [others] if width is None else _fitting(name, others, width):
        shown = [name, *fitting]
        lines += [table([[c.head for c in shown], *zip(*(c.cells for c in shown), strict=True)], width), ""]
    return "\n".join([*lines, *(fill(terminal(note), prose) for note in _notes(comparison))])


def _shown(column: columns.Column) -> Column:
    """A column as wide as a terminal shows it."""
    cells = tuple(terminal(" ".join(filter(None, cell)), WIDEST) for cell in column.cells)
    return Column(terminal(column.head, WIDEST), cells, column.numeric)


def _fitting(name: Column, others: Sequence[Column], columns: int) -> list[list[Column]]:
    """Tables that fit the terminal, each with some columns next to the names."""
    tables: list[list[Column]] = []
    room = 0
    for column in others:
        width = 2 + max(len(text) for text in (column.head, *column.cells))
        if not tables or width > room:
            tables.append([])
            room = columns - max(len(text) for text in (name.head, *name.cells))
        tables[-1].append(column)
        room -= width
    return tables


def to_markdown(comparison: Comparison) -> str:
    """Renders a comparison as GitHub Markdown: one table with a row for each group and its runs, and notes.

    Args:
        comparison: Any comparison.

    Returns:
        A document that ends with a newline; foreign names are escaped.
    """
    rows = columns.rows(comparison)
    shown = [columns.names(rows), *columns.about(rows), *columns.accuracies(comparison, rows)]
    shown += columns.outcome(comparison, rows)
    cells = zip(*([markdown(" ".join(filter(None, cell))) for cell in c.cells] for c in shown), strict=True)
    lines = [
        *("# Comparison", "", f"{markdown(columns.subject(comparison))}.", ""),
        *(*page.table([markdown(c.head) for c in shown], cells, [c.numeric for c in shown]), ""),
        *(f"- {markdown(note)}" for note in _notes(comparison)),
    ]
    return "\n".join(lines) + "\n"


def _notes(comparison: Comparison) -> list[str]:
    entries = comparison.entries
    latency = entries[0].latency
    return [
        *columns.averaged(comparison),
        "Intervals are 95% score intervals over images. An attack that fails proves nothing about the next one: "
        "accuracies under attack are upper bounds.",
        *columns.over_runs(comparison),
        *columns.ahead(comparison),
        f"ms/image: time of the method's prediction, in batches of {latency.images}, median of {len(latency.rounds)} "
        f"alternating rounds, on this machine with its load at the time ({_machine(comparison)}).",
        *(f"{e.name} FAILED {failure}." for e in entries for failure in e.report.failures),
        *(f"{e.name}: {remark}" for e in entries for remark in e.report.remarks),
    ]


def _machine(comparison: Comparison) -> str:
    about = comparison.machine
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    return f"{about['device']}, {threads}, torch {about['torch']}"
