"""No attack leaves the l∞ ball or [0, 1], whatever the network, the radius, the steps and the images."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import perturbify
from perturbify.attacks import Pgd, fgsm, input_gradient, pgd


class Net(nn.Module):
    def __init__(self, channels=4, kernel=3, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, kernel)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.head = nn.Linear(channels, 5)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).tanh().mean((2, 3)))


def tolerance(x):
    """x ± ε is rounded once in the images' dtype, where numbers below 2 are half an ``eps`` exact; ε itself once."""
    return torch.finfo(x.dtype).eps


def assert_inside(adversarial, x, epsilon):
    assert adversarial.shape == x.shape and adversarial.dtype == x.dtype
    assert not adversarial.requires_grad
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    distance = (adversarial.double() - x.double()).abs().max().item()
    assert distance <= epsilon + tolerance(x), distance - epsilon


def images(seed, size, dtype=torch.float32):
    """A third of the pixels black, a third white: there the ball and [0, 1] both bind."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, 3, 6, 6, generator=generator, dtype=torch.float64)
    border = torch.randint(0, 3, x.shape, generator=generator)
    x = torch.where(border == 0, x, (border - 1).double()).to(dtype)
    return x, torch.randint(0, 5, (size,), generator=generator)


radius = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1 / 255, 8 / 255, 0.1, 1.0]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    epsilon=radius,
    step_size=st.one_of(st.floats(0, 2), st.just(0.01)),
    steps=st.integers(0, 4),
    random_start=st.booleans(),
    draws=st.integers(1, 2),
    noisy=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 1e4, 1e30]),
)
def test_pgd_stays_inside(seed, size, dtype, epsilon, step_size, steps, random_start, draws, noisy, scale):
    torch.manual_seed(seed)
    net = Net(channels=1 + seed % 5, kernel=1 + seed % 3, norm=seed % 2 == 0).to(dtype)
    net.head.weight.data.mul_(scale)  # no gradient at all, or one that overflows
    if noisy:
        net = perturbify.wrap(net, example_input=torch.rand(2, 3, 6, 6, dtype=dtype))
    x, y = images(seed, size, dtype)
    before = x.clone()
    adversarial = pgd(net, x, y, Pgd(epsilon, step_size, steps, random_start, draws))
    assert_inside(adversarial, x, epsilon)
    assert torch.equal(x, before)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), epsilon=radius)
def test_fgsm_stays_inside_and_goes_all_the_way(seed, epsilon):
    torch.manual_seed(seed)
    net = Net().eval()
    x, y = images(seed, 3)
    adversarial = fgsm(net, x, y, epsilon=epsilon)
    assert_inside(adversarial, x, epsilon)
    # Pixels off the border move by ε along the sign of the gradient.
    expected = (x + epsilon * input_gradient(net, x, y).sign()).clamp(0, 1)
    assert torch.allclose(adversarial, expected, rtol=0, atol=tolerance(x))


def test_bfloat16_images_stay_inside_the_ball():
    x, y = images(0, 4, torch.bfloat16)
    torch.manual_seed(0)
    assert_inside(pgd(Net().to(torch.bfloat16), x, y, Pgd()), x, 8 / 255)


def test_a_random_start_fills_the_ball():
    net, epsilon = Net(), 8 / 255
    x = torch.full((40, 3, 6, 6), 0.5)
    y = torch.zeros(40, dtype=torch.long)
    torch.manual_seed(0)
    moved = (pgd(net, x, y, Pgd(epsilon, steps=0)) - x) / epsilon
    n = moved.numel()
    assert abs(moved.mean().item()) < 5 / math.sqrt(3 * n)  # uniform on [-1, 1]: variance 1/3
    assert abs(moved.var().item() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
    assert moved.abs().max() > 0.99
    other = (pgd(net, x, y, Pgd(epsilon, steps=0)) - x) / epsilon
    assert not torch.equal(moved, other)


def test_zero_steps_without_random_start_return_the_images():
    x, y = images(0, 3)
    assert torch.equal(pgd(Net(), x, y, Pgd(steps=0, random_start=False)), x)


def test_radius_zero_returns_the_images():
    x, y = images(0, 3)
    assert torch.equal(pgd(Net(), x, y, Pgd(epsilon=0.0)), x)


def test_the_same_seed_gives_the_same_images():
    x, y = images(0, 3)
    net = perturbify.wrap(Net(), example_input=x)

    def attack(seed):
        torch.manual_seed(seed)
        return pgd(net, x, y, Pgd(draws=2))

    assert torch.equal(attack(1), attack(1))
    assert not torch.equal(attack(1), attack(2))


def test_steps_raise_the_loss():
    torch.manual_seed(0)
    net = Net().eval()
    net.head.weight.data.mul_(30)
    x, y = images(1, 32)

    def loss(images):
        return nn.functional.cross_entropy(net(images), y).item()

    one, many = (pgd(net, x, y, Pgd(0.1, 0.02, steps, random_start=False)) for steps in (1, 10))
    assert loss(x) < loss(one) < loss(many)


def test_images_that_require_grad_accumulate_no_gradient():
    x, y = images(0, 3)
    x.requires_grad_(True)
    adversarial = pgd(Net(), x, y)
    assert not adversarial.requires_grad and adversarial.grad_fn is None
    assert x.grad is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": -0.1},
        {"epsilon": 1.5},
        {"epsilon": math.nan},
        {"step_size": -1.0},
        {"step_size": math.inf},
        {"steps": -1},
        {"draws": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Pgd(**wrong)
