"""What passes, what fails, what is open; and what all of it together says."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbify.checks.evidence import STATUS, Criterion, Evidence, fraction, never, verdict

figures = st.floats(-1, 1)
intervals = st.tuples(figures, figures, figures).map(sorted).map(lambda v: (v[1], (v[0], v[2])))
pieces = st.builds(
    lambda found, limit, tolerance: Evidence("what", *found, limit, tolerance), intervals, figures, st.floats(0, 0.1)
)
criteria = st.builds(
    Criterion, st.text(max_size=5), st.just("why"), st.lists(pieces, max_size=3).map(tuple), st.booleans(), st.just("")
)
OUTCOMES = ("pass", "fail", "undecided", "not measured")


def piece(low, high, tolerance=0.02):
    return Evidence("one less the other", (low + high) / 2, (low, high), limit=0.0, tolerance=tolerance)


def criterion(outcome, core=True):
    made = {"pass": (piece(-0.1, 0.0),), "fail": (piece(0.05, 0.1),), "undecided": (piece(0.0, 0.1),)}
    return Criterion(outcome, "why", made.get(outcome, ()), core)


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ((-0.4, -0.2), "pass"),
        ((-0.02, 0.02), "pass"),
        ((-0.02, 0.04), "undecided"),
        ((0.005, 0.025), "undecided"),  # more than 0 for sure, but in part within what counts as equal
        ((0.01, 0.5), "undecided"),
        ((0.02, 0.05), "undecided"),
        ((0.021, 0.05), "fail"),
    ],
)
def test_an_outcome_follows_from_the_interval(interval, outcome):
    assert piece(*interval).outcome == outcome


@given(pieces)
def test_only_an_interval_wholly_beyond_the_limit_fails(e):
    beyond = [v > e.limit + e.tolerance for v in e.interval]
    assert (e.outcome == "fail") == all(beyond)
    assert (e.outcome == "pass") == (not any(beyond))


@given(st.lists(pieces, max_size=4).map(tuple))
def test_the_worst_evidence_decides_a_criterion(evidence):
    found = Criterion("name", "why", evidence).outcome
    each = {e.outcome for e in evidence}
    assert (found == "not measured") == (not evidence)
    assert (found == "fail") == ("fail" in each)
    assert (found == "pass") == (each == {"pass"})


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.booleans()), max_size=6))
def test_established_requires_every_core_criterion(said):
    found = verdict(tuple(criterion(outcome, core) for outcome, core in said))
    core = [outcome for outcome, is_core in said if is_core]
    assert (found == "failed") == any(outcome == "fail" for outcome, _ in said)
    if found != "failed":
        assert (found == "established") == (bool(core) and all(outcome == "pass" for outcome in core))


def test_open_or_unmeasured_core_criteria_prevent_established():
    for outcome in ("undecided", "not measured"):
        assert criterion(outcome).outcome == outcome, "the two are not the same"
        assert verdict((criterion("pass"), criterion(outcome))) == "not established"
        assert verdict((criterion("pass"), criterion(outcome, core=False))) == "established"
    assert verdict(()) == verdict((criterion("pass", core=False),)) == "not established"


def test_statuses():
    assert STATUS == {"established": 0, "failed": 3, "not established": 4}


@given(criteria)
def test_a_criterion_survives_json(found):
    written = json.loads(json.dumps(found.to_dict()))
    assert Criterion.from_dict(written) == found
    assert written["outcome"] == found.outcome
    assert [e["outcome"] for e in written["evidence"]] == [e.outcome for e in found.evidence]


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_share_has_an_interval_a_count_none(bad):
    sampled, counted = fraction("are bad", bad, most=0.05), never("are bad", bad)
    assert sampled.estimate == counted.estimate == np.mean(bad)
    low, high = sampled.interval
    assert low <= sampled.estimate <= high and low < high
    assert counted.outcome == ("fail" if any(bad) else "pass")


def test_128_good_samples_pass_but_64_are_undecided():
    assert fraction("", np.zeros(128, bool), most=0.05).outcome == "pass"
    assert fraction("", np.zeros(64, bool), most=0.05).outcome == "undecided"
    assert fraction("", np.arange(128) < 16, most=0.05).outcome == "fail"
