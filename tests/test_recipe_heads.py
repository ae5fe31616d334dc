"""The figures in the heads of the built-in recipes are those of the results that they name."""

import json
import re
from pathlib import Path

import pytest

from perturbify import recipe
from perturbify.checks import Report

ROOT = Path(__file__).parents[1]


def head(name):
    """The comment that a recipe begins with, as one line."""
    lines = []
    for line in recipe.text(name).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def figures(report):
    """In percent, by the names that a head may use."""
    found = {row.attack: row for row in reversed(report.results) if row.network == "itself"}
    values = {name: row.accuracy for name, row in found.items()}
    return {name: f"{100 * v:.1f}" for name, v in {**values, "worst case": report.headline.accuracy}.items()}


MEASURED = [name for name in recipe.names() if ".json" in head(name)]


def test_every_head_states_its_measured_figures_or_none():
    for name in recipe.names():
        said = head(name)
        assert "Figures: " in said, name
        assert name in MEASURED or "Figures: not measured" in said or "Figures: none to expect" in said, name
    assert {"digits", "cifar10_short"} <= set(MEASURED)


@pytest.mark.parametrize("name", MEASURED)
def test_the_figures_match_the_result(name):
    said = head(name).split("Figures: ")[1]
    path, text = re.match(r"(\S+\.json)[,:;]? (.*)", said).groups()
    values = json.loads((ROOT / path).read_text(encoding="utf-8"))
    report = Report.from_dict({"examples": [], **values.get("report", values)})
    pairs = re.findall(r"(clean|FGSM|PGD-7|worst case) (\d+\.\d)", text)
    assert {name for name, _ in pairs} >= {"clean", "PGD-7", "worst case"}
    assert dict(pairs) == {name: figures(report)[name] for name, _ in pairs}
    assert f"{report.n:,}" in text
    for mean in re.findall(r"θ is (\d\.\d+)", " ".join(report.remarks)):  # older reports do not say it
        assert f"θ at {float(mean):.2f}" in text
