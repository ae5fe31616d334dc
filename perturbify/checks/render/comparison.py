"""A comparison as people read it: in a terminal, and in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from perturbify.checks.compare import Comparison
from perturbify.checks.render import markdown as page
from perturbify.checks.render.text import WIDTH
from perturbify.checks.render.words import Column
from perturbify.escape import markdown, terminal
from perturbify.text import WIDEST, fraction, percent, table


def to_text(comparison: Comparison) -> str:
    """Renders a comparison as plain text: a table of accuracies, one of what the networks are and take, and notes.

    Args:
        comparison: Any comparison.

    Returns:
        Lines without a newline at the end; foreign names are fit for a terminal.
    """
    name, *others = map(_shown, (_names(comparison), *_accuracies(comparison), *_others(comparison)))
    lines = [_fill(_subject(comparison)), ""]
    for columns in _fitting(name, others):
        shown = [name, *columns]
        lines += [table([[c.head for c in shown], *zip(*(c.cells for c in shown), strict=True)]), ""]
    return "\n".join([*lines, *map(_fill, _notes(comparison))])


def _shown(column: Column) -> Column:
    """A column as wide as a terminal shows it."""
    return replace(column, head=terminal(column.head, WIDEST), cells=tuple(terminal(c, WIDEST) for c in column.cells))


def _fill(text: str) -> str:
    return textwrap.fill(terminal(text), WIDTH)


def _fitting(name: Column, columns: Sequence[Column]) -> list[list[Column]]:
    """Columns in tables that a terminal has room for, each beside the names."""
    tables: list[list[Column]] = []
    room = 0
    for column in columns:
        width = 2 + max(len(text) for text in (column.head, *column.cells))
        if not tables or width > room:
            tables.append([])
            room = WIDTH - max(len(text) for text in (name.head, *name.cells))
        tables[-1].append(column)
        room -= width
    return tables


def to_markdown(comparison: Comparison) -> str:
    """Renders a comparison as GitHub Markdown: one table with a row for each network, and notes.

    Args:
        comparison: Any comparison.

    Returns:
        A document that ends with a newline; foreign names are escaped.
    """
    columns = [_names(comparison), *_others(comparison)[:4], *_accuracies(comparison), *_others(comparison)[4:]]
    cells = zip(*([markdown(cell) for cell in c.cells] for c in columns), strict=True)
    lines = [
        *("# Comparison", "", f"{markdown(_subject(comparison))}.", ""),
        *(*page.table([markdown(c.head) for c in columns], cells, [c.numeric for c in columns]), ""),
        *(f"- {markdown(note)}" for note in _notes(comparison)),
    ]
    return "\n".join(lines) + "\n"


def _subject(comparison: Comparison) -> str:
    plan, first = comparison.plan, comparison.entries[0].report
    return (
        f"{first.n} test images of {first.dataset}, l∞ ε = {fraction(plan.epsilon)}, PGD by steps of "
        f"{fraction(plan.step)}, EOT over {plan.eot_draws} draws, seed {plan.seed}; accuracy in percent [95%]"
    )


def _names(comparison: Comparison) -> Column:
    return Column("network", tuple(e.name for e in comparison.entries), numeric=False)


def _accuracies(comparison: Comparison) -> list[Column]:
    """The main figures; those that no network has are left out."""
    steps = comparison.plan.steps
    heads = {
        "clean": "clean",
        "fgsm": "FGSM",
        "pgd": f"PGD-{steps}",
        "margin": "margin",
        "eot": f"EOT-PGD-{steps}",
        "clean_noise_off": "clean, noise off",
        "pgd_noise_off": f"PGD-{steps}, noise off",
    }
    rows = [e.figures for e in comparison.entries]
    found = [
        Column(head, tuple("–" if r is None else percent(r.accuracy, r.interval) for r in (row[key] for row in rows)))
        for key, head in heads.items()
    ]
    return [c for c in found if set(c.cells) != {"–"}]


def _others(comparison: Comparison) -> list[Column]:
    entries = comparison.entries
    first = entries[0].name
    found = [
        Column("method", tuple(e.method or "–" for e in entries), numeric=False),
        Column("weights", tuple(f"{e.weights:,}" for e in entries)),
        Column("θ", tuple(f"{e.theta:,}" if e.theta else "–" for e in entries)),
        Column("ms/image", tuple(_latency(e.latency.milliseconds, e.latency.draws) for e in entries)),
        Column("worst case", tuple(percent(w.value, w.interval) for w in (e.report.headline.worst for e in entries))),
    ]
    if len(entries) > 1:
        cells = tuple("–" if e.ahead is None else percent(e.ahead.value, e.ahead.interval) for e in entries)
        found.append(Column(f"ahead of {first}", cells))
    return found


def _latency(milliseconds: float, draws: int) -> str:
    return f"{milliseconds:.3g}" + (f" ({draws} draws)" if draws > 1 else "")


def _notes(comparison: Comparison) -> list[str]:
    entries, plan = comparison.entries, comparison.plan
    said = []
    if not all(e.report.deterministic for e in entries):
        said.append(
            f"A figure with noise is the mean over {plan.draws} fresh draws for each image, none of which the attack "
            "has seen."
        )
    said += [
        f"{e.name} averages {e.latency.draws} draws for an answer, and gave {e.report.clean.draws} for each image."
        for e in entries
        if e.latency.draws > 1
    ]
    said.append(
        "Intervals are 95% score intervals over images. An attack that fails proves nothing about the next one: "
        "accuracies under attack are upper bounds."
    )
    if len(entries) > 1:
        said.append(
            "worst case: every image under the attack that leaves the least, chosen by other draws than those that "
            f"score it. ahead of {entries[0].name}: that less the same there, in points, by image. "
            "An interval that holds 0 decides nothing."
        )
    latency = entries[0].latency
    said.append(
        f"ms/image: an answer as the method gives it, in batches of {latency.images}, median of {len(latency.rounds)} "
        f"rounds in turn; holds for this machine alone, as idle as it was ({_machine(comparison)})."
    )
    said += [f"{e.name} FAILED {failure}." for e in entries for failure in e.report.failures]
    said += [f"{e.name}: {remark}" for e in entries for remark in e.report.remarks]
    return said


def _machine(comparison: Comparison) -> str:
    about = comparison.machine
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    return f"{about['device']}, {threads}, torch {about['torch']}"
