"""The noise itself: its distribution, its gradient, its shapes and its switch."""

import math

import pytest
import torch
from torch import nn

import perturbify
from perturbify.errors import InputSizeError
from perturbify.normal import standard_normal_like
from perturbify.perturbation import Perturbation

SHAPES = {"element": (3, 4, 5), "channel": (3, 1, 1), "layer": (1, 1, 1)}
SIGMAS = 5.2  # a normal variable leaves ±5.2 once in five million draws


def epsilon(draw_per="sample", batch=40, shape=(8, 16, 16), calls=1):
    """The draws of several calls, as (calls, batch, *shape)."""
    torch.manual_seed(1)
    module = Perturbation(shape, draw_per=draw_per, theta_init=1.0, dtype=torch.float64)
    x = torch.zeros(batch, *shape, dtype=torch.float64)
    return torch.stack([module(x).detach() for _ in range(calls)])


def assert_uncorrelated(a, b):
    assert abs((a * b).mean().item()) < SIGMAS / math.sqrt(a.numel())


def test_every_element_is_standard_normal():
    draws = epsilon(calls=4).flatten()
    n = draws.numel()
    assert abs(draws.mean().item()) < SIGMAS / math.sqrt(n)
    assert abs(draws.var().item() - 1) < SIGMAS * math.sqrt(2 / n)
    assert abs((draws**4).mean().item() - 3) < SIGMAS * math.sqrt(96 / n)
    assert abs((draws.abs() < 1).double().mean().item() - 0.682689) < SIGMAS * math.sqrt(0.2166 / n)


def test_mean_and_variance_hold_at_each_element():
    draws = epsilon(batch=4000, shape=(2, 3, 3))[0]
    n, bound = 4000, 5.6  # 18 elements
    assert (draws.mean(0).abs() < bound / math.sqrt(n)).all()
    assert ((draws.var(0) - 1).abs() < bound * math.sqrt(2 / n)).all()


def test_draws_are_independent_over_images_elements_and_calls():
    draws = epsilon(calls=2)
    assert_uncorrelated(draws[0], draws[1])
    for dim in (1, 2, 3, 4):
        for shift in (1, 2):
            assert_uncorrelated(draws, draws.roll(shift, dim))


def test_draw_per_batch_shares_one_draw_per_call():
    draws = epsilon(draw_per="batch", calls=2)
    assert (draws == draws[:, :1]).all()
    one, two = draws[0, 0], draws[1, 0]
    assert_uncorrelated(one, two)
    assert abs(one.var().item() - 1) < SIGMAS * math.sqrt(2 / one.numel())


def test_two_modules_draw_independently():
    torch.manual_seed(0)
    x = torch.zeros(2, 3, 4, 5)
    a, b = (Perturbation((3, 4, 5))(x) for _ in range(2))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("grain", SHAPES)
@pytest.mark.parametrize("draw_per", ["sample", "batch"])
def test_theta_sets_the_scale(grain, draw_per):
    shape = SHAPES[grain]
    module = Perturbation(shape, draw_per=draw_per)
    with torch.no_grad():
        module.theta.copy_(torch.arange(1, 1 + math.prod(shape)).view(shape))
    x = torch.randn(6, 3, 4, 5)
    torch.manual_seed(3)
    noisy = module(x)
    torch.manual_seed(3)
    drawn = standard_normal_like(x[:1] if draw_per == "batch" else x)
    torch.testing.assert_close(noisy, x + module.theta * drawn)


@pytest.mark.parametrize("grain", SHAPES)
@pytest.mark.parametrize("draw_per", ["sample", "batch"])
def test_gradients_agree_with_finite_differences(grain, draw_per):
    module = Perturbation(SHAPES[grain], draw_per=draw_per, dtype=torch.float64)
    torch.manual_seed(0)
    x = torch.randn(3, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    theta = torch.rand(SHAPES[grain], dtype=torch.float64, requires_grad=True)

    def loss(x, theta):
        torch.manual_seed(7)
        return torch.func.functional_call(module, {"theta": theta}, (x,)).sin().sum()

    assert torch.autograd.gradcheck(loss, (x, theta))
    (gradient,) = torch.autograd.grad(loss(x, theta), theta)
    step, numeric = 1e-6, torch.zeros_like(theta)
    with torch.no_grad():
        for i in range(theta.numel()):
            bump = torch.zeros_like(theta).view(-1)
            bump[i] = step
            bump = bump.view_as(theta)
            numeric.view(-1)[i] = (loss(x, theta + bump) - loss(x, theta - bump)) / (2 * step)
    torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("theta", "x"),
    [
        ((4, 9), (2, 4, 9)),
        ((4, 9), (4, 9)),
        ((4, 2, 3, 3), (2, 4, 2, 3, 3)),
        ((4, 3, 3), (4, 3, 3)),
        ((1, 1), (2, 4, 9)),
    ],
)
def test_inputs_may_have_any_number_of_dimensions(theta, x):
    for draw_per in ("sample", "batch"):
        module = Perturbation(theta, draw_per=draw_per)
        noisy = module(torch.zeros(x))
        assert noisy.shape == x
        assert noisy.unique().numel() > x[-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_keeps_the_feature_maps_dtype(dtype):
    module = Perturbation((3, 4, 5))
    noisy = module(torch.zeros(2, 3, 4, 5, dtype=dtype))
    assert noisy.dtype == dtype
    noisy.float().sum().backward()
    assert module.theta.grad.dtype == torch.float32


def test_autocast_keeps_the_dtype():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Perturbation((4, 6, 6)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        noisy = network(torch.rand(2, 3, 8, 8))
    assert noisy.dtype == torch.bfloat16


@pytest.mark.parametrize("draw_per", ["sample", "batch"])
def test_channels_last_stays(draw_per):
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert Perturbation((3, 4, 5), draw_per=draw_per)(x).is_contiguous(memory_format=torch.channels_last)


def test_noise_off_returns_the_feature_map_itself():
    module = Perturbation((3, 4, 5))
    x = torch.rand(2, 3, 4, 5)
    state = torch.get_rng_state()
    with perturbify.noise(module, enabled=False):
        assert module(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_the_switch_ignores_modes_and_survives_errors():
    network = nn.Sequential(Perturbation((1, 1, 1)), Perturbation((1, 1, 1)))
    network[1].enabled = False
    with pytest.raises(KeyError), perturbify.noise(network):
        assert all(p.enabled for _, p in perturbify.perturbations(network))
        network.eval()
        assert all(p.enabled for _, p in perturbify.perturbations(network))
        raise KeyError
    assert [p.enabled for p in network] == [True, False]
    with perturbify.noise(network, enabled=False), perturbify.noise(network):
        assert all(p.enabled for p in network)


def test_projection_only_raises_theta_to_its_minimum():
    module = Perturbation((3,), theta_min=0.1)
    with torch.no_grad():
        module.theta.copy_(torch.tensor([-1.0, 0.05, 0.4]))
    module.project_()
    assert torch.equal(module.theta.detach(), torch.tensor([0.1, 0.1, 0.4]))
    assert module.theta.requires_grad


def test_another_size_names_both_sizes_and_the_fix():
    with pytest.raises(InputSizeError, match=r'3×4×5.*3×8×8.*grain="channel"'):
        Perturbation((3, 4, 5))(torch.zeros(2, 3, 8, 8))


def test_a_network_without_noise_has_no_perturbations():
    network = nn.Conv2d(3, 4, 3)
    assert list(perturbify.perturbations(network)) == []
    with perturbify.noise(network, enabled=False):
        network(torch.zeros(1, 3, 8, 8))
