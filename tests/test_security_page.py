"""The figures of docs/security.md are those of the files that they were measured into."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def measured(name):
    assert f"benchmarks/results/{name}" in PAGE
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def test_every_killed_run_ended_alike():
    kills = measured("2026-11-27-kills.json")
    assert kills["identical"] == kills["killed"] == len(kills["runs"])
    assert f"{kills['killed']} runs killed" in PAGE and f"{kills['while writing']} of them while writing" in PAGE
