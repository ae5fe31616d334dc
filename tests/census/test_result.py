"""The committed census: its table in docs/ and the README's sentence are those of its JSON, and nothing is left out."""

import json
from pathlib import Path

from perturbify.census import Row
from perturbify.census.report import summary

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "benchmarks" / "results" / "2026-11-22-census.json").read_text(encoding="utf-8"))
LATER = ROOT / "benchmarks" / "results" / "2026-11-27-census-libraries.json"
LIBRARIES = json.loads(LATER.read_text(encoding="utf-8"))

# How the surgery of that day reached a call, which this one does in another way.
WAYS = ("fx", "hook", "not_entered")
ROWS = [Row(**{key: value for key, value in row.items() if key not in WAYS}) for row in RESULT["models"]]


def test_the_totals_match_the_models():
    for library, of in summary(ROWS).items():
        theirs = RESULT["summary"][library]
        assert {k: v for k, v in of.items() if k in theirs} == {k: v for k, v in theirs.items() if k not in WAYS}
    assert len({row.name for row in ROWS}) == len(ROWS) == 1492


def test_totals_of_other_libraries_match_their_networks():
    rows = [Row(**row) for row in LIBRARIES["models"]]
    assert LIBRARIES["summary"] == summary(rows)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        if row.status == "complete":
            assert row.output + row.inner + row.graph + row.skipped == max(row.calls.values()), row.name
            assert row.parity == dict.fromkeys(row.calls, True), row.name


def test_every_call_is_a_site_or_fixed_filter():
    """Per model, in the mode with more calls; a shrunken model has fewer layers than it is counted with."""
    for row in RESULT["models"]:
        if row["status"] == "complete" and not row["shrunken"]:
            assert row["fx"] + row["hook"] + row["skipped"] == max(row["calls"].values()), row["name"]
            assert row["parity"] == {"eval": True, "train": True}, row["name"]


def test_totals_agree_with_an_independent_census():
    """Calls and models as the issue that asked for this census states them."""
    timm, torchvision = RESULT["summary"]["timm"], RESULT["summary"]["torchvision"]
    assert (timm["models"], timm["calls in eval"], timm["no convolutions"], timm["skipped"]) == (1371, 93082, 18, 37)
    assert (torchvision["models"], torchvision["calls in eval"], torchvision["calls in train"]) == (121, 8803, 8811)


def test_the_pages_quote_the_result():
    page = (ROOT / "docs" / "census.md").read_text(encoding="utf-8")
    for library in ("timm", "torchvision", "all"):
        of = RESULT["summary"][library]
        calls = f"{of['calls in eval']:,} / {of['calls in train']:,}"
        cells = (f"{of['models']:,}", f"{of['complete']:,}", of["no convolutions"], of["incomplete"], calls)
        assert f"| {' | '.join(map(str, cells))} |" in page
    total, readme = RESULT["summary"]["all"], (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"all {total['complete']:,} models of timm and torchvision" in " ".join(readme.split())
    for library, of in LIBRARIES["summary"].items():
        calls = f"{of['calls in eval']:,} / {of['calls in train']:,}"
        ways = (f"{of['output']:,}", of["inner"], of["graph"], of["skipped"])
        cells = (of["models"], of["complete"], of["incomplete"], calls, *ways)
        assert f" | {' | '.join(map(str, cells))} |" in page, library
    of = LIBRARIES["summary"]["all"]
    assert f"{of['complete']} of {of['models']} networks of six other libraries" in " ".join(readme.split())


def test_the_quoted_cost_of_wrapping_was_measured():
    result = json.loads((ROOT / "benchmarks" / "results" / "2026-11-27-surgery.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "surgery.md").read_text(encoding="utf-8")
    for row in result["seconds"]:
        taken, ratio = row["seconds"], row["wrap over its two forwards"]
        assert (
            f"| {row['model']} | {taken['eval and train forward']:.2f} s | {taken['wrap']:.2f} s | {ratio:.1f} |"
            in page
        )
        assert ratio < 4
        rest = f"{row['without verification over symbolic_trace']:.1f} | {row['noise off over source']:.2f} |"
        assert f"{taken['wrap without verification']:.2f} s | {rest}" in page
    for library, of in LIBRARIES["summary"].items():
        assert library == "all" or f"{of['complete']} of {of['models']}" in page
