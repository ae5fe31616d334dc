"""The losses, and what is kept by them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perturbify.attacks import Pgd, input_gradient, pgd
from perturbify.attacks.best import Best
from perturbify.attacks.losses import cross_entropy, likely_wrong, margin, mean_margin, targeted_margin

LOGITS = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, -1.0], [1.0, 1.0, 7.0]])
Y = torch.tensor([0, 2, 1])


def test_values_match_hand_calculation():
    assert torch.allclose(margin(LOGITS, Y), torch.tensor([-0.5, 5.0, 6.0]))
    assert torch.allclose(targeted_margin(LOGITS, Y, torch.tensor([1, 0, 0])), torch.tensor([-2.0, 1.0, 0.0]))
    assert torch.allclose(cross_entropy(LOGITS, Y), F.cross_entropy(LOGITS, Y, reduction="none"))
    assert torch.equal(likely_wrong(LOGITS, Y, 1), torch.tensor([[2], [1], [2]]))
    assert torch.equal(likely_wrong(LOGITS, Y, 9), torch.tensor([[2, 1], [1, 0], [2, 0]]))


@pytest.mark.parametrize("loss", [margin, lambda z, y: targeted_margin(z, y, (y + 1) % 3)], ids=["margin", "targeted"])
def test_nan_is_infinitely_wrong(loss):
    logits = LOGITS.clone()
    logits[1] = torch.nan
    values = loss(logits, Y)
    assert values[1] == math.inf and torch.equal(values[[0, 2]], loss(LOGITS, Y)[[0, 2]])


def test_half_precision_is_compared_in_single():
    logits = LOGITS.bfloat16()
    assert margin(logits, Y).dtype == torch.float32
    assert margin(logits.double(), Y).dtype == torch.float64


class Alternates(nn.Module):
    """Margin 1, then -3, then NaN where the image is white."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        z = torch.tensor([1.0, -3.0, math.nan][(self.calls - 1) % 3])
        z = torch.where(x.mean((1, 2, 3)) == 1, z, z.nan_to_num())
        return torch.stack([torch.zeros(len(x)), z], 1)


def test_the_loss_is_averaged_over_draws():
    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    x[1] = 1
    assert torch.equal(mean_margin(Alternates(), x, y, 2), torch.tensor([-1.0, -1.0]))
    assert torch.equal(mean_margin(Alternates(), x, y, 3), torch.tensor([-2 / 3, math.inf]))


class Bright(nn.Module):
    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), x.mean((1, 2, 3))], 1)


def test_the_best_is_kept_image_by_image():
    x, y = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    best = Best(Bright(), x, y, 1)
    assert torch.equal(best.images, x) and (best.margins == -math.inf).all()
    best.offer(x + torch.tensor([0.1, 0.9, 0.3]).view(3, 1, 1, 1))
    best.offer(x + torch.tensor([0.5, 0.2, 0.3]).view(3, 1, 1, 1))
    best.offer(x[:1] + 0.7, torch.tensor([2]))
    assert torch.allclose(best.margins, torch.tensor([0.5, 0.9, 0.7]))
    assert torch.allclose(best.images[:, 0, 0, 0], best.margins)
    assert (x == 0).all()


def test_the_gradient_is_of_the_chosen_loss():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x = torch.rand(3, 3, 2, 2)
    weight = net[1].weight.detach()
    best = likely_wrong(net(x), Y, 1).squeeze(1)
    expected = (weight[best] - weight[Y]).view_as(x)
    assert torch.allclose(input_gradient(net, x, Y, loss=margin), expected, atol=1e-6)
    assert torch.allclose(input_gradient(net, x, Y, loss=margin, draws=5, at_once=2), expected, atol=1e-6)


class SometimesNan(nn.Module):
    """Every second forward has gradients that are not numbers."""

    def __init__(self, every=2):
        super().__init__()
        self.calls, self.every = 0, every

    def forward(self, x):
        self.calls += 1
        score = x.sum((1, 2, 3))
        if self.calls % self.every == 0:
            score = score + (score * 0).abs().sqrt()
        return torch.stack([-score, score], 1)


def test_a_draw_with_nonfinite_gradient_can_be_ignored():
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    assert input_gradient(SometimesNan(), x, y, draws=4).isnan().all()
    half = input_gradient(SometimesNan(), x, y, draws=4, finite=True)
    assert torch.allclose(half, input_gradient(SometimesNan(every=9), x, y) / 2)


def test_pgd_continues_past_nan_gradients():
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    attack = Pgd(0.1, 0.05, 4, random_start=False)
    assert torch.allclose(pgd(SometimesNan(), x, y, attack), torch.tensor(0.6))
    assert torch.equal(pgd(SometimesNan(every=1), x, y, attack), x)
    assert torch.equal(pgd(SometimesNan(every=1), x, y, Pgd(0.1, 0.05, 4, random_start=False, norm="l2")), x)
