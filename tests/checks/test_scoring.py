"""Scoring on repeated draws, against counting by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from perturbify.checks.scoring import score


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
def test_each_image_is_counted_separately(data):
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
        given_ = [a for a in answers if a >= 0]
        assert int(scores.answer[i]) == (min(given_, key=lambda a: (-given_.count(a), a)) if given_ else -1)
        votes = {c: answers.count(c) for c in range(4)}
        assert bool(scores.majority[i]) == all(votes[truth] > votes[c] for c in votes if c != truth)
        later = script[i, :queries].tolist()
        wrong = next((k for k, a in enumerate(later) if a != truth), queries)
        assert int(scores.lasted[i]) == min(wrong, queries)
    # No image is left out of the scoring draws, whatever a draw says.
    assert net.asked[:draws] == [list(range(n))] * draws


def test_only_images_without_a_failure_are_asked_again():
    script = torch.zeros(3, 10, dtype=torch.long)
    script[1, 1] = 2
    net = Scripted(script)
    score(net, images(3), torch.zeros(3, dtype=torch.long), draws=3, queries=6)
    assert net.asked == [[0, 1, 2]] * 3 + [[0, 2]] * 3


def test_some_of_the_scores():
    scores = score(Scripted(torch.arange(4).repeat(8, 1).T), images(4), torch.tensor([0, 1, 0, 3]), draws=2, queries=2)
    some = scores.of([3, 2])
    assert some.right.tolist() == [[True, True], [False, False]] and some.answer.tolist() == [3, 2]
    assert some.majority.tolist() == [True, False] and some.lasted.tolist() == [2, 0]
