"""The one form in which results are kept: nothing is lost on the way to JSON and back, and damage is noticed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from networks.results import EPSILON, first, result

from perturbify.checks.results import Answers, Figure, Point, Result
from perturbify.checks.statistics import mean_interval, wilson

rights = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(rights)
def test_answers_survive_a_round_trip(right):
    packed = Answers.of(right)
    assert (packed.n, packed.draws) == right.shape
    assert np.array_equal(packed.right, right)
    assert np.array_equal(Answers(**json.loads(json.dumps(vars(Answers.of(right))))).right, right)


@given(rights, st.sampled_from(["white box", "clean", "black box", "sweep"]), st.booleans())
def test_a_result_survives_json(right, role, shared):
    made = result(
        "some",
        right,
        role,
        shared=shared,
        survival={1: Figure(0.5, (0.4, 0.6)), 10: Figure(0.25, (0.125, 0.5))},
        points=(Point("epsilon", "PGD-7", EPSILON),),
        source="another",
    )
    written = json.loads(json.dumps(made.to_dict()))
    again = Result.from_dict(written)
    assert again == made and np.array_equal(again.right, right)
    assert json.loads(json.dumps(again.to_dict())) == written
    assert (written["n"], written["draws"]) == right.shape
    assert written["accuracy"] == right.mean() and tuple(written["interval"]) == mean_interval(right, shared=shared)


@pytest.mark.parametrize("field", [f for f in result("some", [True]).to_dict() if f not in {"n", "draws"}])
def test_a_result_missing_a_field_is_refused(field):
    """But for those that follow from the others."""
    values = result("some", first(3, 8)).to_dict()
    del values[field]
    if field in ("accuracy", "interval"):
        assert Result.from_dict(values) == result("some", first(3, 8))
    else:
        with pytest.raises(KeyError):
            Result.from_dict(values)


@pytest.mark.parametrize(
    "damage",
    [
        *({"bits": "!"}, {"bits": "A"}, {"n": "3"}, {"draws": None}, {"more": 1}),
        {"bits": ""},
        {"n": 400},
        {"n": -1},
    ],
    ids=str,
)
def test_damaged_answers_are_noticed(damage):
    values = result("some", first(3, 8, draws=20)).to_dict()
    values["answers"] |= damage
    with pytest.raises((KeyError, TypeError, ValueError)):
        Result.from_dict(values)


def test_figures_of_answers():
    assert result("some", first(3, 8)).figure == Figure(3 / 8, wilson(3, 8))
    twice = first(3, 8, draws=20)
    assert result("some", twice).accuracy == 3 / 8
    twice[:, 1] = True
    alone, together = (result("some", twice, shared=s).interval for s in (False, True))
    assert together[0] < alone[0] and alone[1] < together[1], "draws in common say less"


@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ({}, True),
        ({"epsilon": EPSILON / 2}, True),
        ({"epsilon": 2 * EPSILON}, False),
        ({"on": "twin"}, True),
        ({"on": "frozen"}, True),
        ({"on": "other", "source": "x"}, True),
        ({"on": "known"}, False),
        ({"norm": "l2"}, False),
        ({"norm": None, "epsilon": None}, False),
    ],
    ids=str,
)
def test_what_counts_as_within_the_ball(changes, within):
    assert result("some", first(3, 8), **changes).within(EPSILON) == within
