"""The l2 ball and restarts: bounds for any network, and optima that are known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perturbify.attacks import Pgd, pgd


class Linear(nn.Module):
    """Two classes by one linear score."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x):
        score = (self.weight * x).sum((1, 2, 3))
        return torch.stack([-score, score], dim=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    epsilon=st.floats(0, 20),
    step_size=st.floats(0, 5),
    steps=st.integers(0, 4),
    restarts=st.integers(1, 3),
    random_start=st.booleans(),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)
def test_it_stays_inside(seed, epsilon, step_size, steps, restarts, random_start, scale):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    net[-1].weight.data.mul_(scale)
    x, y = torch.rand(3, 3, 6, 6), torch.randint(0, 5, (3,))
    attack = Pgd(epsilon, step_size, steps, random_start, restarts=restarts, norm="l2")
    images = pgd(net, x, y, attack)
    assert images.shape == x.shape and ((images >= 0) & (images <= 1)).all()
    assert (images - x).flatten(1).norm(dim=1).max() <= epsilon * (1 + 1e-5) + 1e-6


def test_it_finds_the_optimum_of_a_linear_network():
    """The best change of length ε goes against the weight, where [0, 1] does not bind."""
    torch.manual_seed(0)
    weight = torch.randn(1, 3, 4, 4)
    x, y = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])
    images = pgd(Linear(weight), x, y, Pgd(0.3, 0.1, 40, norm="l2"))
    best = 0.3 * torch.cat([weight, -weight]) / weight.norm()
    assert torch.allclose(images - x, best, atol=1e-3)


def test_a_random_start_fills_the_ball():
    torch.manual_seed(0)
    x = torch.full((500, 1, 1, 2), 0.5)
    start = pgd(Linear(torch.zeros(1, 1, 1, 2)), x, torch.zeros(500, dtype=torch.long), Pgd(0.4, 0.0, 0, norm="l2"))
    radius = (start - x).flatten(1).norm(dim=1)
    assert radius.max() <= 0.4 + 1e-6
    # In two dimensions half of the ball lies within ε / √2.
    assert (radius < 0.4 / 2**0.5).float().mean().item() == pytest.approx(0.5, abs=0.08)


class TwoHills(nn.Module):
    """The loss rises towards both ends of a pixel; the end at one is the higher one."""

    def forward(self, x):
        v = x[:, 0, 0, 0] - 0.5
        height = torch.where(v > 0, 4 * v, -v)
        return torch.stack([-height, height], dim=1)


def test_restarts_keep_the_greatest_loss():
    x, y = torch.full((200, 1, 1, 1), 0.5), torch.zeros(200, dtype=torch.long)
    found = {}
    for restarts in (1, 8):
        torch.manual_seed(0)
        images = pgd(TwoHills(), x, y, Pgd(0.2, 0.1, 5, restarts=restarts))
        found[restarts] = (images > 0.5).float().mean().item()
    assert 0.3 < found[1] < 0.7 and found[8] > 0.97


class Sometimes(nn.Module):
    """Breaks down beyond 0.6: its loss there is not a number."""

    def forward(self, x):
        v = x[:, 0, 0, 0]
        broken = torch.where(v > 0.6, torch.nan, 0.0)
        return torch.stack([-v, v], dim=1) + broken[:, None]


def test_an_image_that_gives_nan_is_kept():
    torch.manual_seed(0)
    x, y = torch.full((50, 1, 1, 1), 0.5), torch.zeros(50, dtype=torch.long)
    images = pgd(Sometimes(), x, y, Pgd(0.2, 0.0, 0, restarts=20))
    assert (images > 0.6).float().mean() > 0.95


def test_the_cost_is_counted():
    calls = {"forward": 0, "gradient": 0}

    class Counting(nn.Module):
        def forward(self, x):
            calls["gradient" if x.requires_grad else "forward"] += 1
            return torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], dim=1)

    attack = Pgd(steps=3, draws=2, restarts=2)
    attack.craft(Counting(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    assert (calls["forward"], calls["gradient"]) == (attack.passes.forward, attack.passes.gradient)
