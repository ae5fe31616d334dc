"""The mathematics of θ."""

from fractions import Fraction

import pytest
import torch

from perturbify.methods.learn2perturb import regularizer, scaled_gamma
from perturbify.methods.theta_way import harmonic


def test_harmonic_numbers():
    assert harmonic(1) == 1
    assert harmonic(2) == 1.5
    for k in (3, 10, 340):
        exact = sum(Fraction(1, i) for i in range(1, k + 1))
        assert harmonic(k) == pytest.approx(float(exact), rel=1e-14)
    for k in (0, -1):  # the release divides by zero in its first noisy epoch
        with pytest.raises(ValueError, match="k = 1, on"):
            harmonic(k)


def test_the_regularizer_is_the_sum_over_all_elements():
    thetas = [torch.tensor([[0.25, 0.01]]), torch.tensor([4.0])]
    assert regularizer(thetas, tau=1.5).item() == pytest.approx(-(0.5 + 0.1 + 2) / 1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_gradient_matches_the_papers(dtype):
    gamma, tau = 1e-4, harmonic(7)
    thetas = [torch.rand(5, 3).add(0.01).to(dtype).requires_grad_(), torch.rand(4).add(0.01).to(dtype).requires_grad_()]
    (gamma * regularizer(thetas, tau)).backward()
    for theta in thetas:
        assert theta.grad.dtype == dtype
        by_hand = -gamma / (2 * tau * theta.detach().double().sqrt())
        torch.testing.assert_close(theta.grad.double(), by_hand, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=0)
        assert (theta.grad < 0).all()  # descending makes θ grow


def test_its_gradient_against_finite_differences():
    theta, tau, h = torch.tensor([0.04, 0.25, 1.1], requires_grad=True), 2.0, 1e-2
    (gradient,) = torch.autograd.grad(regularizer([theta], tau), theta)
    for i in range(3):
        step = torch.zeros(3).index_fill(0, torch.tensor(i), h)
        with torch.no_grad():
            difference = regularizer([theta + step], tau) - regularizer([theta - step], tau)
        assert gradient[i].item() == pytest.approx(difference.item() / (2 * h), rel=0.01)


def test_gamma_follows_the_batch_size():
    assert scaled_gamma(1e-4, 128) == 1e-4
    assert scaled_gamma(1e-4, 64) == 0.5e-4
    assert scaled_gamma(1e-4, 512) == 4e-4
