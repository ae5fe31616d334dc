"""docs/results.md and the README say what the runs of ``benchmarks.evidence`` gave."""

from pathlib import Path

import pytest

from benchmarks.evidence import page

ROOT = Path(__file__).parents[1]
TEXT = page.PAGE.read_text(encoding="utf-8")
SUITES = ("digits", "cifar", "change")


def test_the_tables_are_those_of_the_runs():
    assert page.written(TEXT) == TEXT
    assert all(f"<!-- {suite} -->" in TEXT for suite in SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_the_runs_of_a_table_can_be_compared(suite):
    found = [one for runs in page.read(suite) for one in runs.found]
    assert len({one["W-steps"] for one in found}) == 1
    assert len({(one["report"]["preset"], one["report"]["n"]) for one in found}) == 1


def test_the_verdicts_that_the_text_tells():
    verdicts = {suite: {r.verdict for runs in page.read(suite) for r in runs.reports} for suite in SUITES}
    assert verdicts["digits"] == {"established"} and verdicts["cifar"] == {"not established"}
    short = [c for runs in page.read("cifar") for r in runs.reports for c in r.criteria]
    assert {c.outcome for c in short} == {"pass", "not measured"}
