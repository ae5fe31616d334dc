"""The figures of docs/security.md are those of the files that they were measured into."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def measured(name):
    assert f"benchmarks/results/{name}" in PAGE
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def test_nothing_is_stated_twice():
    headings = re.findall(r"^#.*$", PAGE, re.MULTILINE)
    assert len(headings) == len(set(headings)) >= 4
    for sentence in (r"python -m benchmarks\.fuzz --files", r"[\d,]+ files, changed", r"[\d,]+ runs killed"):
        assert len(re.findall(sentence, PAGE)) == 1, sentence


def test_the_fuzzer_found_nothing():
    found = measured("2026-11-27-fuzz.json")
    assert found["wrong"] == 0 and f"{found['files']:,} files, changed" in PAGE
    assert f"--files {found['files']} --seed {found['seed']}`" in PAGE
    counts = {kind: sum(each.values()) for kind, each in found["found"].items()}
    for kind, count in counts.items():
        assert f"{count:,} {kind}s" in PAGE
        assert f"{found['found'][kind]['refused']:,} refused" in PAGE
    assert f"{found['longest seconds']:.1f} s" in PAGE
    assert f"{found['most megabytes above the honest files']:.0f} MB" in PAGE


def test_every_killed_run_ended_alike():
    kills = measured("2026-11-27-kills.json")
    assert kills["identical"] == kills["killed"] == len(kills["runs"])
    assert f"{kills['killed']} runs killed" in PAGE and f"{kills['while writing']} of them while writing" in PAGE
