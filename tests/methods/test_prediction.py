"""How a network answers: one draw, or the mean softmax of several."""

import pytest
import torch
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.checks import CheckPlan, check
from perturbify.checks.render import to_markdown
from perturbify.data.split import MemorySplit
from perturbify.errors import SurgeryError
from perturbify.methods.prediction import predictor
from perturbify.perturbation import perturbations
from perturbify.prediction import Ensemble

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RSE = PerturbConfig("layer", "input", theta_init=8.0, theta_min=None, learnable=False)


def network(config=RSE, method="rse"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        source[-1].weight.data.mul_(20)
    return perturbify.wrap(source, config, method=method, example_input=X).train()


def test_the_mean_is_taken_over_softmax_outputs():
    net = network()
    torch.manual_seed(1)
    answer = perturbify.predict(net, X, draws=5)
    torch.manual_seed(1)
    with torch.no_grad():
        draws = torch.stack([net(X).softmax(1) for _ in range(5)])
    torch.testing.assert_close(answer.probabilities, draws.mean(0))
    assert torch.equal(answer.classes, draws.mean(0).argmax(1))
    assert not torch.equal(draws[0], draws[1])
    assert answer.draws == 5 and answer.radii is None


def test_draws_default_to_the_methods_own():
    assert perturbify.predict(network(), X).draws == 50
    assert perturbify.predict(network(PerturbConfig(), "learn2perturb"), X).draws == 1
    assert perturbify.predict(network(None, "vanilla"), X).draws == 1


def test_predict_restores_the_network_even_after_errors(monkeypatch):
    def broken(_):
        raise RuntimeError("broken")

    net = network()
    net.get_submodule("1").eval()
    modes = [m.training for m in net.modules()]
    perturbify.predict(net, X, draws=2)
    assert [m.training for m in net.modules()] == modes
    with pytest.raises(RuntimeError, match="broken"), monkeypatch.context() as patch:
        patch.setattr(net[4], "forward", broken)
        perturbify.predict(net, X, draws=2)
    assert [m.training for m in net.modules()] == modes
    assert all(not p.requires_grad or p.grad is None for p in net.parameters())


def test_unwrapped_networks_and_zero_draws_are_refused():
    with pytest.raises(SurgeryError, match="Linear is not a wrapped network"):
        perturbify.predict(nn.Linear(2, 2), X)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Ensemble(nn.Linear(2, 2), 0)


def test_only_averaging_methods_get_an_ensemble():
    plain, single, averaging = nn.Linear(2, 2), network(PerturbConfig(), "learn2perturb"), network()
    assert predictor(plain) is plain and predictor(single) is single
    assert predictor(network(None, "vanilla")).surgery.plan.config is None
    ensemble = predictor(averaging)
    assert ensemble.network is averaging and ensemble.draws == 50
    assert [m for _, m in perturbations(ensemble)] == [m for _, m in perturbations(averaging)]


def test_a_check_scores_averaged_predictions():
    """Single draws of this network are right half of the time, by chance; the mean of fifty of them is not."""
    net = network().eval()
    labels = perturbify.predict(net, X, draws=2000).classes
    images = MemorySplit((X * 255).to(torch.uint8), labels)
    report = check(net, images, CheckPlan(attacks=("fgsm",), draws=5, queries=(1, 5), epsilon=1e-6, step_size=1e-6))
    with torch.no_grad():
        single = sum((net(X).argmax(1) == labels).float().mean().item() for _ in range(200)) / 200
    assert report.clean.accuracy > single + 0.1
    assert any("mean softmax of 50 draws" in remark for remark in report.remarks)


def test_checking_weight_noise_reports_shared_draws():
    net = network(PerturbConfig("layer", "weight", "relative", theta_min=None), "pni").eval()
    images = MemorySplit((X * 255).to(torch.uint8), torch.arange(6) % 3)
    report = check(net, images, CheckPlan(attacks=("eot",), eot_draws=3, draws=2, queries=(1,), frozen_draws=2))
    assert report.noise_mode == "weights" and not report.deterministic
    assert report.clean.shared and "the images of a batch shared their draws" in to_markdown(report)
    assert report.liveness.failures == [] and report.liveness.skipped is None
    assert report.liveness.sites == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_underflow_does_not_break_an_ensembles_gradient(dtype):
    """Its softmax underflows; the gradient of the logarithm of 0 would stop every attack."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).to(dtype)
    net[1].weight.data.mul_(5)
    net[1].bias.data[2] = -300
    x = X.to(dtype).requires_grad_()
    answers = Ensemble(net, 3)(x)
    (gradient,) = torch.autograd.grad(nn.functional.nll_loss(answers, torch.zeros(6, dtype=torch.int64)), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    torch.testing.assert_close(answers.exp().sum(1), torch.ones(6))


def test_zero_draws_are_refused():
    with pytest.raises(ValueError, match="draws must be at least 1, not 0"):
        perturbify.predict(network(), X, draws=0)
