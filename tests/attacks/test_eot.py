"""EOT averages over independent draws, whoever shares one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import perturbify
from perturbify.attacks import Pgd, input_gradient, pgd
from perturbify.perturbation import Perturbation

X = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2])
SHARES = ["sample", "batch"]


def noisy(draw_per, theta=0.7):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    ).double()
    net[-1].weight.data.mul_(6)
    config = perturbify.PerturbConfig(draw_per=draw_per, theta_init=theta)
    return perturbify.wrap(net, config, example_input=X.double()).eval()


def gradient(net, draws, seed):
    torch.manual_seed(seed)
    return input_gradient(net, X.double(), Y, draws=draws)


@pytest.mark.parametrize("draw_per", SHARES)
def test_more_draws_come_closer_to_the_mean_gradient(draw_per):
    net = noisy(draw_per)
    true = gradient(net, 600, seed=0)

    def cosine(draws):
        return (
            sum(
                F.cosine_similarity(gradient(net, draws, seed).flatten(), true.flatten(), dim=0).item()
                for seed in range(1, 9)
            )
            / 8
        )

    one, four, sixteen, many = (cosine(draws) for draws in (1, 4, 16, 64))
    assert one + 0.03 < four < sixteen < many
    assert one < 0.8 and many > 0.95


@pytest.mark.parametrize("draw_per", SHARES)
def test_gradient_error_shrinks_with_the_number_of_draws(draw_per):
    net = noisy(draw_per)
    true = gradient(net, 600, seed=0)

    def error(draws):
        return sum((gradient(net, draws, seed) - true).square().sum().item() for seed in range(1, 31)) / 30

    assert error(2) / error(32) == pytest.approx(16, rel=0.4)


def test_repeating_images_does_not_average_a_shared_draw():
    """What input_gradient must not do: the copies of an image all get the one draw of their batch."""
    net = noisy("batch")
    copies = X.double().repeat(16, 1, 1, 1).requires_grad_(True)
    loss = F.cross_entropy(net(copies), Y.repeat(16), reduction="sum")
    by_copy = torch.autograd.grad(loss, copies)[0].view(16, *X.shape)
    assert torch.allclose(by_copy, by_copy[:1].expand_as(by_copy), rtol=1e-9, atol=1e-12)

    separate = torch.stack([gradient(net, 1, seed) for seed in range(16)])
    assert separate.var(0).max() > 1e-3 * separate.square().mean()


@pytest.mark.parametrize("draw_per", SHARES)
def test_every_step_and_draw_gets_fresh_noise(draw_per):
    net = noisy(draw_per)
    drawn = []
    site = next(m for _, m in perturbify.perturbations(net))
    site.register_forward_hook(lambda m, inputs, output: drawn.append((output - inputs[0]).detach() / m.theta.detach()))
    pgd(net, X.double(), Y, Pgd(steps=2, draws=3))
    assert len(drawn) == 6
    rows = torch.stack([d[:1].flatten() for d in drawn])
    correlation = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / rows.shape[1] ** 0.5


def test_one_draw_is_the_plain_gradient():
    net = noisy("sample")
    x = X.double().requires_grad_(True)
    torch.manual_seed(7)
    plain = torch.autograd.grad(F.cross_entropy(net(x), Y, reduction="sum"), x)[0]
    assert torch.equal(gradient(net, 1, seed=7), plain)


def test_the_average_is_the_mean_of_single_draws():
    net = noisy("sample")
    torch.manual_seed(7)
    singles = [input_gradient(net, X.double(), Y) for _ in range(4)]
    assert torch.allclose(gradient(net, 4, seed=7), sum(singles) / 4, rtol=1e-12, atol=0)


def test_without_noise_more_draws_change_nothing():
    net = noisy("sample")
    with perturbify.noise(net, enabled=False):
        assert torch.allclose(gradient(net, 5, seed=0), gradient(net, 1, seed=1), rtol=1e-12, atol=0)


def test_image_gradients_do_not_depend_on_the_batch():
    net = noisy("sample")
    with perturbify.noise(net, enabled=False):
        together = gradient(net, 1, seed=0)
        alone = torch.cat([input_gradient(net, X[i : i + 1].double(), Y[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, rtol=1e-9, atol=1e-15)


def test_an_attack_respects_the_noise_switch():
    net = noisy("sample")
    states = []
    for module in net.modules():
        if isinstance(module, Perturbation):
            module.register_forward_hook(lambda m, *_: states.append(m.enabled))
    pgd(net, X.double(), Y, Pgd(steps=1))
    with perturbify.noise(net, enabled=False):
        pgd(net, X.double(), Y, Pgd(steps=1))
    assert states == [True, True, False, False]


def test_batched_draws_are_as_accurate_as_single_ones():
    net = noisy("sample")
    true = gradient(net, 600, seed=0)

    def error(at_once):
        found = []
        for seed in range(1, 31):
            torch.manual_seed(seed)
            found.append(input_gradient(net, X.double(), Y, draws=16, at_once=at_once))
        return torch.stack([(g - true).square().sum() for g in found]).mean().item()

    assert error(16) == pytest.approx(error(1), rel=0.4)
    assert error(5) == pytest.approx(error(1), rel=0.4), "also where they do not go into it evenly"
    with perturbify.noise(net, enabled=False):
        once = input_gradient(net, X.double(), Y, draws=5, at_once=3)
        assert torch.allclose(once, gradient(net, 1, seed=0), rtol=1e-9, atol=1e-15)
