"""The result of a census, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perturbify.census.examination import Row
from perturbify.escape import terminal
from perturbify.text import table


def summary(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Totals per library and overall: models, complete ones, calls, and how they were reached."""
    libraries = sorted({r.name.partition(":")[0] for r in rows})
    groups = {library: [r for r in rows if r.name.startswith(f"{library}:")] for library in libraries}
    return {name: _totals(group) for name, group in {**groups, "all": list(rows)}.items()}


def rows_table(rows: Sequence[Row], width: int | None = None) -> str:
    """A table with one line per model; ``width`` as for :func:`perturbify.text.table`."""
    lines = [("model", "status", "calls", "output", "inner", "graph", "skipped", "parity", "parameters", "seconds")]
    lines += [
        (
            row.name,
            row.status + (" (fewer layers)" if row.shrunken else ""),
            _calls(row),
            str(row.output),
            str(row.inner),
            str(row.graph),
            str(row.skipped),
            ", ".join(mode for mode, equal in row.parity.items() if equal) or "–",
            f"{row.parameters / 1e6:.1f} M",
            f"{row.seconds:.1f}",
        )
        for row in rows
    ]
    return table(lines, width, ("parameters", "seconds", "parity", "graph", "inner", "skipped", "output"))


def summary_table(rows: Sequence[Row], width: int | None = None) -> str:
    """The totals, in ``width`` columns, and each incomplete model with its reason."""
    totals = summary(rows)
    head = list(next(iter(totals.values())))
    lines = [("library", *head)]
    lines += [(library, *(f"{of[key]:,}" for key in head)) for library, of in totals.items()]
    wrong = [terminal(f"incomplete: {row.name}: {row.error}") for row in rows if row.status == "incomplete"]
    least = ("graph", "inner", "output", "calls in train", "calls in eval", "skipped", "no convolutions")
    return "\n".join([table(lines, width, least), *wrong])


def _totals(rows: Sequence[Row]) -> dict[str, int]:
    return {
        "models": len(rows),
        "complete": sum(r.status == "complete" for r in rows),
        "no convolutions": sum(r.status == "no convolutions" for r in rows),
        "incomplete": sum(r.status == "incomplete" for r in rows),
        "calls in eval": sum(r.calls.get("eval", 0) for r in rows),
        "calls in train": sum(r.calls.get("train", 0) for r in rows),
        "output": sum(r.output for r in rows),
        "inner": sum(r.inner for r in rows),
        "graph": sum(r.graph for r in rows),
        "skipped": sum(r.skipped for r in rows),
        "parity in both modes": sum(r.parity == {"eval": True, "train": True} for r in rows),
    }


def _calls(row: Row) -> str:
    counts = list(dict.fromkeys(row.calls.values()))
    return "/".join(map(str, counts)) or "–"


def to_dict(rows: Sequence[Row], versions: dict[str, str]) -> dict[str, Any]:
    """The result as JSON values."""
    return {"versions": versions, "summary": summary(rows), "models": [r.to_dict() for r in rows]}
