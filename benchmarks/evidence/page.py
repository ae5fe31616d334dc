"""The results of ``benchmarks.evidence`` as tables and pictures: ``python -m benchmarks.evidence.page``.

Rewrites the tables of docs/results.md, which are between comments that name their suite, and the pictures.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbify.checks import Report
from perturbify.checks.runs import Ahead, Pooled, Spread
from perturbify.methods import theta_way
from perturbify.text import percent

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence"
PAGE = ROOT / "docs" / "results.md"
RIVALS = ("vanilla", "nothing")
OURS, ALONE = "learn2perturb", "learn2perturb-r"
COLUMNS = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd": "PGD-7, one draw a step",
    "eot": "PGD-7, 20 draws a step",
    "margin": "margin attack",
    "longer": "longer, where it stands",
}


@dataclass(frozen=True)
class Runs:
    """All runs of one name in a suite.

    Attributes:
        name: Their name.
        found: Each run's JSON, in order of seed.
        reports: The check of each.
    """

    name: str
    found: tuple[dict[str, Any], ...]
    reports: tuple[Report, ...]

    @property
    def theta(self) -> Spread | None:
        """Mean θ at the end of each."""
        last = [f["epochs"][-1].get("theta") for f in self.found]
        return Spread.of([theta["mean"] for theta in last]) if all(last) else None

    @property
    def shares(self) -> bool:
        """Whether images share their draws."""
        return any(report.clean.shared for report in self.reports)


def read(suite: str) -> list[Runs]:
    """The existing runs of a suite, the baseline first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob(f"{suite}-*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(values["name"], []).append(values)
    runs = [
        Runs(name, tuple(each), tuple(Report.from_dict({**f["report"], "examples": []}) for f in each))
        for name, each in found.items()
    ]
    return sorted(runs, key=lambda r: r.name not in RIVALS)


def to_markdown(suite: str) -> str:
    """A suite's table: a row for each name, mean ± sd over its training runs, in percent."""
    runs = read(suite)
    baseline = runs[0]
    met = [id for id in COLUMNS if any(_figures(r.reports, id) for r in runs)]
    heads = ["run", "seeds", "W-steps", "θ at the end", *(COLUMNS[id] for id in met), "worst case [over images]"]
    heads += [f"ahead of `{baseline.name}`, over images", "over runs"]
    lines = [heads, ["---"] * len(heads)]
    for r in runs:
        cells = [f"`{r.name}`", f"{len(r.found)}", " or ".join(sorted({f"{f['W-steps']:,}" for f in r.found}))]
        cells.append(_theta(r))
        cells += [_over_runs(r.reports, id) for id in met]
        worst = Pooled.of([report.worst for report in r.reports], shared=r.shares)
        cells.append(f"{_spread(worst.over_runs)} {_interval(worst.over_images)}")
        cells += ["–", "–"] if r is baseline else ahead(r, baseline)
        lines.append(cells)
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    by_name = {r.name: r for r in runs}
    if not {OURS, ALONE} <= by_name.keys():
        return table
    over_images, over_runs = ahead(by_name[OURS], by_name[ALONE])
    return f"{table}\n\n`{OURS}` is ahead of `{ALONE}` by {over_images} over images, and {over_runs} over runs."


def _theta(runs: Runs) -> str:
    """Its mean at the end and, for the default start, the epoch of the full schedule that reaches it."""
    if runs.theta is None:
        return "–"
    recipe, mean = tomllib.loads(runs.found[0]["recipe"]), f"{runs.theta.mean:.2f}".replace("-0.00", "0.00")
    if recipe["method"] not in (OURS, ALONE) or recipe["perturb"]["theta_init"] != theta_way.START:
        return mean
    far = theta_way.reached(runs.theta.mean)
    return f"{mean}, " + (f"epoch {far}" if runs.theta.mean > theta_way.START else "below the start")


def _figures(reports: Sequence[Report], id: str) -> list[float]:
    """Each run's accuracy under one attack; empty unless all were attacked on all images."""
    results = [report.result(id) for report in reports]
    found = [x.accuracy for x, report in zip(results, reports, strict=True) if x is not None and x.n == report.n]
    return found if len(found) == len(reports) else []


def _over_runs(reports: Sequence[Report], id: str) -> str:
    """Mean ± sd of one attack."""
    found = _figures(reports, id)
    return _spread(Spread.of(found)) if found else "–"


def _spread(spread: Spread) -> str:
    sd = "" if spread.sd is None else f" ± {100 * spread.sd:.1f}"
    return f"{100 * spread.mean:.1f}{sd}"


def _interval(interval: tuple[float, float]) -> str:
    return "[{:.1f}, {:.1f}]".format(*(100 * end for end in interval)).replace("-", "−")


def ahead(runs: Runs, baseline: Runs) -> list[str]:
    """The lead of one over another in the worst case: difference and interval over images, interval over runs."""
    answers = [[report.worst for report in each.reports] for each in (runs, baseline)]
    found = Ahead.of(*answers, shared=runs.shares or baseline.shares)
    over_runs = "–" if found.over_runs is None else _interval(found.over_runs)
    return [percent(found.value, found.over_images).replace("-", "−"), over_runs]


def written(page: str) -> str:
    """The page with its tables updated from the results."""

    def table(match: re.Match[str]) -> str:
        suite = match[1]
        return f"<!-- {suite} -->\n\n{to_markdown(suite)}\n\n<!-- end of {suite} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end of \1 -->", table, page, flags=re.S)


def main() -> None:
    """Writes the tables and the pictures."""
    from benchmarks.evidence import pictures

    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    pictures.draw(read("digits"), ROOT / "docs" / "results-digits.png")


if __name__ == "__main__":
    main()
