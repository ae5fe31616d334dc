"""Scoring on repeated draws, against counting by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from perturbify.checks.scoring import score
from perturbify.checks.statistics import difference_interval, mean_interval, survival


class Scripted(nn.Module):
    """Answers with the classes of a script, one column a forward; the images say which rows they are."""

    def __init__(self, script):
        super().__init__()
        self.script, self.calls, self.asked = script, 0, []

    def forward(self, x):
        rows = x[:, 0, 0, 0].long()
        self.asked.append(rows.tolist())
        answers = self.script[rows, self.calls]
        self.calls += 1
        logits = nn.functional.one_hot(answers.clamp(min=0), 4).float()
        return torch.where(answers[:, None] < 0, torch.nan, logits)


def images(n):
    return torch.arange(n).view(-1, 1, 1, 1).float()


@given(st.data())
def test_each_image_is_counted_by_itself(data):
    n, draws, queries = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5)), data.draw(st.integers(5, 8))
    script = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(-1, 3), min_size=8, max_size=8), min_size=n, max_size=n))
    )
    y = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    net = Scripted(script)
    scores = score(net, images(n), y, draws=draws, queries=queries)
    for i in range(n):
        answers, truth = script[i, :draws].tolist(), int(y[i])
        assert scores.right[i].tolist() == [a == truth for a in answers]
        votes = {c: answers.count(c) for c in range(4)}
        assert bool(scores.majority[i]) == all(votes[truth] > votes[c] for c in votes if c != truth)
        later = script[i, :queries].tolist()
        wrong = next((k for k, a in enumerate(later) if a != truth), queries)
        assert int(scores.lasted[i]) == min(wrong, queries)
    # No image is left out of the scoring draws, whatever a draw says.
    assert net.asked[:draws] == [list(range(n))] * draws


def test_only_those_without_a_failure_are_asked_on():
    script = torch.zeros(3, 10, dtype=torch.long)
    script[1, 1] = 2
    net = Scripted(script)
    score(net, images(3), torch.zeros(3, dtype=torch.long), draws=3, queries=6)
    assert net.asked == [[0, 1, 2]] * 3 + [[0, 2]] * 3


@given(st.floats(0, 1), st.integers(1, 6))
def test_survival_of_few_queries_is_unbiased(p, queries):
    """Averaged over all outcomes of the draws, the estimate is the chance to the power of the queries."""
    draws = 6
    expected = sum(
        math.comb(draws, right) * p**right * (1 - p) ** (draws - right) * survival([right], [0], draws, queries)
        for right in range(draws + 1)
    )
    assert expected == pytest.approx(p**queries)


def test_survival_of_many_queries_counts_those_that_lasted():
    assert survival([20, 20, 3], [100, 57, 2], 20, 100) == pytest.approx(1 / 3)
    assert survival([20, 20, 3], [100, 57, 2], 20, 50) == pytest.approx(2 / 3)
    assert survival([5, 0], [5, 0], 5, 1) == 0.5


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.integers(0, 3))
def test_intervals_hold_their_mean_and_stay_in_range(shares, seed):
    values = torch.tensor(shares, dtype=torch.double).numpy()
    low, high = mean_interval(values, seed=seed)
    assert 0 <= low <= values.mean() <= high <= 1
    assert mean_interval(values, seed=seed) == (low, high)
    low, high = difference_interval(values, values[::-1], seed=seed)
    assert -1 <= low <= (values - values[::-1]).mean() <= high <= 1


def test_where_all_images_agree_an_interval_is_left_all_the_same():
    zeros = torch.zeros(100, dtype=torch.double).numpy()
    low, high = mean_interval(zeros)
    assert low == 0 and 0.03 < high < 0.04
    low, high = difference_interval(zeros, zeros)
    assert low == -high and 0.03 < high < 0.04


def test_intervals_cover_what_they_say():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        shares = (torch.rand(200, generator=generator, dtype=torch.double) < 0.3).double().numpy()
        low, high = mean_interval(shares, seed=trial)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 198
