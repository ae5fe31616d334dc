"""docs/methods.md and docs/certify.md say what the committed results say."""

import json
import re
from pathlib import Path

import pytest

from perturbify import methods
from perturbify.text import percent

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## All of them on one network\n")[1].split("\n## ")[0]


def newest(name):
    path = max((ROOT / "benchmarks" / "results").glob(f"*-{name}.json"))
    return path.name, json.loads(path.read_text(encoding="utf-8"))


NAME, RESULT = newest("methods")
OF_RSE, RSE = newest("rse")
ROWS = {row["name"]: row for row in (*RESULT["rows"], *RSE["rows"])}


def gain(found):
    figure = percent(found["difference"], found["interval"]).replace("-", "−")
    return figure if found["difference"] < -0.0005 or figure.startswith("0.0") else f"+{figure}"


def table(columns):
    """Rows of the section's table with so many columns, by their method."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", SECTION, re.M)]
    return {cells[0].strip("`"): cells[1:] for cells in lines if len(cells) == columns and cells[0].startswith("`")}


def test_the_page_links_to_its_result():
    assert NAME in SECTION and OF_RSE in SECTION
    assert set(methods.names()) <= set(ROWS)
    assert {row["n"] for row in ROWS.values()} == {1017} and "1,017" in SECTION
    assert RESULT["protocol"]["EOT draws"] >= 20


@pytest.mark.parametrize("name", ROWS)
def test_the_table(name):
    row = ROWS[name]
    found = [row["figures"].get(k) for k in ("clean", "FGSM", "PGD-7", "EOT-PGD-7", "PGD-7, noise off")]
    expected = ["–" if f is None else percent(f["accuracy"], f["interval"]) for f in found]
    less = row.get("strongest, less vanilla's")
    assert table(7)[name] == [*expected, "–" if less is None else gain(less)]


def test_the_longer_attack():
    expected = {}
    for name, row in ROWS.items():
        if "long" in row:
            less = row.get("long, less vanilla's")
            figure = percent(row["long"]["accuracy"], row["long"]["interval"])
            expected[name] = [figure, "–" if less is None else gain(less)]
    assert table(3) == expected


def test_the_first_sentence():
    text = " ".join((ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split())
    share = {name: percent(ROWS[name]["figures"]["PGD-7"]["accuracy"]) for name in ("adv-bnn", "vanilla")}
    assert f"({share['adv-bnn']}% against {share['vanilla']}%)" in text
    less = gain(ROWS["adv-bnn"]["strongest, less vanilla's"]).removeprefix("+")
    assert f"({less.replace(' [', ' points [')})" in text


def test_the_certificate():
    name, found = newest("certificate")
    text = " ".join((ROOT / "docs" / "certify.md").read_text(encoding="utf-8").split())
    assert name in text and f"{found['n']} original test images" in text
    assert f"{percent(found['abstentions'])}% abstentions" in text
    first, *_, last = found["certified"]
    for figure in (found, first, found["certified"][3], last):
        assert percent(figure["accuracy"], figure["interval"]).replace(" [", "% [") in text
