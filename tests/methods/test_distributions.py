"""What each defence draws: its distribution, what shares a draw, and Adv-BNN's divergence.

Bounds are such that a scale that is wrong by 5% fails: at least 20,000 draws, and 5 standard errors are 2.5% there.
"""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.distributions import Normal, kl_divergence

import perturbify
from perturbify import PerturbConfig, methods
from perturbify.certification import noise_level
from perturbify.errors import MethodError
from perturbify.methods.adv_bnn import SIGMA_0, divergence
from perturbify.methods.method import NoisySite, Stage
from perturbify.surgery.noisy import noisy_sites

DRAWS = 20_000
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Registered in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.fc, self.second = nn.Linear(6, 12), nn.Conv2d(4, 6, 3, padding=1)
        self.norm, self.first = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.fc(self.second(self.norm(self.first(x)).relu()).mean((2, 3)))


def made(method, config="of the method", kind=Net):
    torch.manual_seed(0)
    return perturbify.wrap(kind().eval(), config, method=method, example_input=X)


@torch.no_grad()
def noises(network, x=X, forwards=1):
    """What each noise module added, over several forwards: (forwards, *shape), by the name of its site; float64."""
    found, hooks = {}, []
    for name, perturbation in perturbify.perturbations(network):

        def keep(_module, inputs, output, name=name):
            found.setdefault(name, []).append((output.double() - inputs[0].double()).clone())

        hooks.append(perturbation.register_forward_hook(keep))
    for _ in range(forwards):
        network(x)
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(values) for name, values in found.items()}


def assert_normal(draws, sigma):
    """Of mean 0 and this standard deviation, by its moments and by Kolmogorov and Smirnov; wrong by 5% fails."""
    z = draws.flatten() / sigma
    assert z.numel() >= DRAWS
    z = z[: 4 * DRAWS]
    assert abs(z.mean().item()) < 5 / math.sqrt(z.numel())
    assert z.square().mean().sqrt().item() == pytest.approx(1, abs=5 / math.sqrt(2 * z.numel()))
    assert kstest(z.numpy(), "norm").pvalue > 1e-4


def assert_apart(a, b):
    """Uncorrelated, by five standard errors."""
    assert a.shape == b.shape
    correlation = (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()
    assert abs(correlation.item()) < 5 / math.sqrt(a.numel())


def test_a_scale_wrong_by_five_percent_fails():
    torch.manual_seed(0)
    draws = torch.randn(DRAWS, dtype=torch.float64)
    assert_normal(draws, 1.0)
    for wrong in (0.95, 1.05):
        with pytest.raises(AssertionError):
            assert_normal(draws, wrong)
    with pytest.raises(AssertionError):
        assert_apart(draws, draws)


def test_pni_noise_is_proportional_to_the_weights_deviation():
    network = made("pni")
    alphas = {"first.weight": 0.25, "second.weight": 0.1, "fc.weight": -0.4}
    weights = {name: network.get_parameter(name) for name in alphas}
    with torch.no_grad():
        for name, perturbation in perturbify.perturbations(network):
            assert perturbation.theta.numel() == 1
            assert perturbation.theta.item() == 0.25
            perturbation.theta.fill_(alphas[name])
    drawn = noises(network, forwards=300)
    assert set(drawn) == set(alphas)
    for name, values in drawn.items():
        assert values.shape[1:] == weights[name].shape
        assert_normal(values, abs(alphas[name]) * weights[name].double().std().item())
        assert_apart(values[1:], values[:-1])
        flat = values.flatten(1)
        assert_apart(flat[:, 1:], flat[:, :-1])
        assert (values.std(0) > 0).all()


def test_pni_shares_one_draw_per_batch():
    network = made("pni")
    same = X[:1].expand(4, -1, -1, -1)
    with torch.no_grad():
        for training in (False, True):
            one, two = (network.train(training)(same) for _ in range(2))
            torch.testing.assert_close(one, one[:1].expand_as(one))
            assert not torch.allclose(one[:1], two[:1], rtol=1e-3)


@pytest.mark.parametrize("grain", ["channel", "element"])
def test_pni_with_a_finer_grain(grain):
    config = PerturbConfig(**{**vars(methods.get("pni").perturb), "grain": grain})
    network = made("pni", config)
    (_, perturbation), *_ = [s for s in perturbify.perturbations(network) if s[0] == "second.weight"]
    with torch.no_grad():
        perturbation.theta.copy_(torch.linspace(0.1, 1, perturbation.theta.numel()).view_as(perturbation.theta))
    drawn = noises(network, forwards=200)["second.weight"]
    assert_normal(drawn / perturbation.theta.detach().double(), network.second.weight.double().std().item())


def test_activation_pni_scales_with_the_whole_batch():
    config = PerturbConfig(site="output", scale="relative", grain="layer", theta_min=None)
    network = made("pni", config)
    x = torch.rand(16, 3, 24, 24) * torch.linspace(0.2, 3, 16).view(-1, 1, 1, 1)  # images of unequal contrast
    seen = {}
    hook = network.second.perturb.register_forward_pre_hook(lambda m, i: seen.update(x=i[0].double()))
    drawn = noises(network, x)
    hook.remove()
    assert set(drawn) == {"first", "second"}
    values, deviation = drawn["second"][0], seen["x"].std().item()
    assert_normal(values, 0.25 * deviation)
    each = values.flatten(1).std(1)
    assert (each / (0.25 * deviation) - 1).abs().max() < 5 / math.sqrt(2 * values[0].numel())
    assert_apart(values[1:], values[:-1])
    with pytest.raises(MethodError, match="takes the site weight, output, input, norm or addition, not parameter"):
        made("pni", PerturbConfig(site="parameter", scale="relative", theta_min=None))


def test_activation_pnis_gradient_treats_std_as_constant():
    config = PerturbConfig(site="output", scale="relative", grain="layer", theta_min=None)
    network = perturbify.wrap(nn.Conv2d(3, 4, 1).double(), config, method="pni", example_input=X.double())
    x = X.double().requires_grad_()
    noise = {}
    network.perturb.register_forward_hook(lambda m, i, o: noise.update(given=(o - i[0]).detach()))
    out = network(x)
    (out.square() / 2).sum().backward()
    by_hand = torch.einsum("nohw,oi->nihw", out.detach(), network.weight.detach()[:, :, 0, 0])
    torch.testing.assert_close(x.grad, by_hand)
    alpha = network.perturb.theta
    torch.testing.assert_close(alpha.grad.sum(), (out.detach() * noise["given"] / alpha.detach()).sum())


def test_rses_first_convolution_gets_more_noise():
    network = made("rse")
    x = torch.rand(64, 3, 16, 16)
    for training in (False, True):
        drawn = noises(network.train(training), x)
        assert list(drawn) == ["first", "second"]
        assert drawn["first"].shape[1:] == (64, 3, 16, 16)
        assert_normal(drawn["first"], 0.2)
        assert_normal(drawn["second"], 0.1)
        assert_apart(drawn["first"][0, 1:], drawn["first"][0, :-1])
    again = noises(network, x)
    assert_apart(again["first"], drawn["first"])
    assert all(not p.theta.requires_grad for _, p in perturbify.perturbations(network))
    network(x).sum().backward()
    assert all(p.theta.grad is None for _, p in perturbify.perturbations(network))
    assert methods.get("rse").draws == 50


def test_adv_bnn_draws_every_parameter():
    network = made("adv-bnn")
    torch.manual_seed(1)
    with torch.no_grad():
        for _, perturbation in perturbify.perturbations(network):
            assert torch.allclose(perturbation.theta.exp(), torch.tensor(0.1))
            perturbation.theta.add_(torch.randn_like(perturbation.theta))
    drawn = noises(network, forwards=1000)
    assert set(drawn) == {name for name, _ in Net().named_parameters()}
    small = []
    for name, perturbation in perturbify.perturbations(network):
        sigma = perturbation.theta.detach().double().exp()
        assert sigma.shape == network.get_parameter(name).shape
        z = drawn[name] / sigma
        assert ((z.std(0) - 1).abs() < 6 / math.sqrt(2 * 1000)).all()
        assert_apart(z[1:], z[:-1])
        if z.numel() < DRAWS:
            small.append(z)
        else:
            assert_normal(z, 1.0)
    assert_normal(torch.cat(small, 1), 1.0)


def test_adv_bnns_penalty_sums_over_all_layers():
    network = made("adv-bnn")
    torch.manual_seed(1)
    with torch.no_grad():
        for _, perturbation in perturbify.perturbations(network):
            perturbation.theta.add_(torch.randn_like(perturbation.theta) * 0.5)
    posteriors = {name: p.theta for name, p in perturbify.perturbations(network)}
    source = dict(Net().named_parameters())
    assert set(posteriors) == set(source)
    prior = Normal(0.0, SIGMA_0)
    by_torch = sum(
        kl_divergence(Normal(network.get_parameter(name), posteriors[name].exp()), prior).sum() for name in source
    )
    sites = [NoisySite(p.theta, weight) for p, weight in noisy_sites(network)]
    ours = sum(divergence(s.weight, s.theta) for s in sites)
    assert ours.item() == pytest.approx(by_torch.item(), rel=1e-5)
    stage = Stage(k=3, batch_size=128, images=50_000, gamma=0.02)
    penalty = methods.get("adv-bnn").penalty(sites, stage)
    assert penalty.item() == pytest.approx(0.02 / 50_000 * by_torch.item(), rel=1e-5)
    found = torch.autograd.grad(penalty, [network.first.weight, posteriors["norm.bias"]])
    for one, other in zip(
        found, torch.autograd.grad(by_torch, [network.first.weight, posteriors["norm.bias"]]), strict=True
    ):
        torch.testing.assert_close(one, other * 0.02 / 50_000, rtol=1e-4, atol=1e-9)
    assert divergence(torch.zeros(3), torch.full((3,), math.log(SIGMA_0))).item() == pytest.approx(0, abs=1e-6)


def test_a_coarser_grain_still_counts_every_weight():
    torch.manual_seed(0)
    mu, s = torch.randn(4, 3, 2), torch.randn(4, 1, 1)
    by_torch = kl_divergence(Normal(mu, s.exp()), Normal(0.0, SIGMA_0)).sum()
    assert divergence(mu, s).item() == pytest.approx(by_torch.item(), rel=1e-5)


def test_pixeldp_draws_only_behind_the_first_convolution():
    assert noise_level(0.1, 1.0, 0.05, 1.0) == pytest.approx(0.2537, abs=5e-5)
    network = made("pixeldp")
    x = torch.rand(64, 3, 16, 16)
    drawn = noises(network, x)
    assert list(drawn) == ["first"]
    assert drawn["first"].shape[1:] == (64, 4, 16, 16)
    assert_normal(drawn["first"], 0.2537)
    assert_apart(drawn["first"][0, 1:], drawn["first"][0, :-1])
    assert [s.way for s in network.surgery.plan.sites] == ["output"]
    assert not network.first.perturb.theta.requires_grad
    assert perturbify.predict(network, X, draws=3).radii is not None


def test_learn2perturb_draws_behind_every_convolution():
    network = made("learn2perturb")
    drawn = noises(network, forwards=60)
    assert list(drawn) == ["first", "second"]
    for values in drawn.values():
        assert_normal(values, 0.25)
        assert_apart(values[1:], values[:-1])


def test_a_batch_shares_one_draw_on_request():
    network = made("rse", replace(methods.get("rse").perturb, draw_per="batch"))
    drawn = noises(network, torch.rand(3, 3, 64, 64), forwards=3)["first"]
    assert torch.allclose(drawn[:, 0], drawn[:, 1], atol=1e-6)
    assert_normal(drawn[:, 0], 0.2)


def test_noise_of_another_kind_is_refused():
    for method, change in (
        ("pni", {"scale": "absolute"}),
        ("rse", {"learnable": True}),
        ("adv-bnn", {"site": "output"}),
        ("pixeldp", {"extent": "all"}),
    ):
        (key,) = change
        with pytest.raises(MethodError, match=f"method {method} .*{key}"):
            made(method, replace(methods.get(method).perturb, **change))
