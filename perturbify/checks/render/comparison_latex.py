"""A comparison as a LaTeX table for a paper, with booktabs' rules."""

from __future__ import annotations

import re

from perturbify.checks.comparison import Comparison
from perturbify.checks.render import comparison_columns as columns
from perturbify.escape import latex
from perturbify.text import fraction


def to_latex(comparison: Comparison) -> str:
    """Renders a comparison as a LaTeX table: two lines a group, its figures and, below, their intervals.

    Args:
        comparison: Any comparison.

    Returns:
        A ``table`` that ends with a newline, for a document with ``\\usepackage{booktabs}``; foreign names are escaped.
    """
    rows: list[columns.Row] = list(comparison.groups)
    shown = [*columns.accuracies(comparison, rows), *columns.outcome(comparison, rows)]
    names = [name for name, _ in columns.names(rows).cells]
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        "  \\small",
        f"  \\caption{{{latex(_caption(comparison), None)}}}",
        f"  \\begin{{tabular}}{{l{'r' * len(shown)}}}",
        "    \\toprule",
        f"    {_line('network', [latex(column.head) for column in shown])}",
        "    \\midrule",
    ]
    for number, name in enumerate(names):
        cells = [column.cells[number] for column in shown]
        lines.append(f"    {_line(latex(name), [_figure(figure) for figure, _ in cells])}")
        lines.append(f"    {_line('', [_small(interval) for _, interval in cells])}")
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _caption(comparison: Comparison) -> str:
    """What a reader must know besides the figures: images, ε, attacks, draws, seeds, what intervals are over."""
    plan, first = comparison.plan, comparison.entries[0].report
    said = [
        f"Accuracy in percent on n = {first.n} test images of {first.dataset} under l∞ attacks with ε = "
        f"{fraction(plan.epsilon)} ({'; '.join([*columns.adversary(comparison), f'seed {plan.seed}'])}).",
        *columns.averaged(comparison),
        f"Mean ± standard deviation over training runs ({columns.seeds(comparison)}); below, 95% intervals over "
        "images, runs pooled."
        if comparison.several
        else "Below, 95% intervals over images, of one training run each.",
        "Worst case: every image under its worst attack.",
    ]
    if len(comparison.groups) > 1:
        said.append(f"Ahead: the paired difference to {comparison.groups[0].name} in the worst case, in points.")
        if any(g.ahead is not None and g.ahead.over_runs is not None for g in comparison.groups):
            said.append("Ahead, over runs: the same with Welch's 95% interval over training runs.")
    return " ".join([*said, *(f"{e.name} FAILED {f}." for e in comparison.entries for f in e.report.failures)])


def _line(name: str, cells: list[str]) -> str:
    return " & ".join([name, *cells]).rstrip() + " \\\\"


def _figure(text: str) -> str:
    """A figure such as ``83.6 ± 0.2`` in math mode, so that a minus sign looks like one."""
    parts = text.split(" ± ")
    return " $\\pm$ ".join(f"${part}$" if re.fullmatch(r"-?[\d.]+", part) else latex(part) for part in parts)


def _small(interval: str) -> str:
    return f"{{\\scriptsize $[{interval[1:-1]}]$}}" if interval else ""
