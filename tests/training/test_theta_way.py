"""How far θ can go in a run, and how a short run goes the way of the full schedule."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import perturbify
from perturbify import PerturbConfig, methods, recipe
from perturbify.methods.theta_way import full, pace, planned, reached, said, tau_epoch
from perturbify.training import step as steps
from perturbify.training.phases import JOINT_STEP, phase_at
from perturbify.training.step import Trainer

X = torch.rand(2, 3, 6, 6)


def settings(name="cifar10", **changes):
    return recipe.load(name, {key.replace("__", "."): value for key, value in changes.items()})


def test_thetas_path_on_the_full_schedule():
    way = full()
    assert way[:20] == pytest.approx([0.25] * 20)
    assert [round(way[epoch - 1], 2) for epoch in (150, 350)] == [1.03, 1.06]
    assert list(way) == sorted(way)
    assert (reached(0.1), reached(0.25), reached(way[99]), reached(5.0)) == (1, 1, 100, 350)


def test_pace():
    assert pace(settings(), 50_000, warms_up=True) == 1
    assert pace(settings(train__epochs=35), 50_000, warms_up=True) == 10
    assert pace(settings(train__batch_size=64), 25_024, warms_up=True) == 2
    by_turns = settings(train__epochs=70, train__joint=False, train__w_steps=3)
    assert pace(by_turns, 50_000, warms_up=True) == 20  # one step in four is θ's
    assert pace(settings("cifar10_short"), 8_068, warms_up=True) == 150  # the recipe's limit
    assert pace(settings("cifar10_short", train__theta_rate_limit=1000), 8_068, warms_up=True) == pytest.approx(
        305, abs=1
    )
    assert pace(settings("cifar10_short", train__theta_schedule="plain"), 8_068, warms_up=True) == 1
    assert pace(settings("cifar10_short"), 8_068, warms_up=False) == 1


def test_the_plan_and_the_distance_in_words():
    assert planned(settings(), 50_000, warms_up=True) is None
    assert planned(settings(train__epochs=35), 50_000, warms_up=True).startswith(
        "θ's learning rate is multiplied by 10 "
    )
    assert "by 150 for the length of the run, limited from 305 by" in planned(
        settings("cifar10_short"), 8_068, warms_up=True
    )
    assert planned(settings("cifar10_short"), 8_068, warms_up=False) is None
    assert said(0.25, 0.25) == "no farther than the start of the full schedule, 0.25"
    assert said(full()[99], 0.25) == "as far as epoch 100 of 350 of the full schedule"
    assert said(1.2, 0.25) == "beyond the end of the full schedule, 1.06"
    for start in (1.0, "0.1x"):
        assert said(1.0, start) == f"not comparable with the full schedule, which starts at 0.25, not at {start}"


def test_reports_state_how_far_theta_moved(data):
    network = perturbify.wrap(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(48, 3)), example_input=X)
    for _, perturbation in perturbify.perturbations(network):
        nn.init.constant_(perturbation.theta, 0.6)
    plan = perturbify.CheckPlan(attacks=("fgsm",), images=6, draws=2)
    assert (
        f"θ is 0.600 on average, from 0.600 to 0.600; its mean is {said(0.6, 0.25)}."
        in perturbify.check(network.eval(), data, plan).remarks
    )


@given(st.integers(0, 349), st.integers(1, 400), st.integers(0, 20))
def test_the_epoch_used_for_tau(epoch, epochs, warm_up):
    train = replace(settings().train, epochs=epochs, warmup_epochs=warm_up)
    for tau_from, first in (("noise", warm_up), ("start", 0)):
        as_it_is = replace(train, tau_from=tau_from, theta_schedule="plain")
        assert tau_epoch(epoch, as_it_is, warms_up=True) == epoch - first + 1
        assert tau_epoch(epoch, replace(train, tau_from=tau_from), warms_up=False) == epoch + 1
        scaled = tau_epoch(epoch, replace(train, tau_from=tau_from), warms_up=True)
        if epochs == 350:
            assert scaled == epoch - first + 1
        if first <= epoch < epochs:
            assert 1 <= scaled <= 350
            assert abs(scaled - (epoch - first + 0.5) * 350 / epochs) <= 1


def regularised(epochs, in_each, **changes):
    """What θ comes to by the updates of a run under the regulariser alone."""
    whole = {"method": "learn2perturb-r", "train__epochs": epochs, "train__warmup_epochs": round(epochs * 20 / 350)}
    milestones = [round(epochs * m / 350) for m in (150, 250)]
    chosen = settings(**whole, theta_optimizer__milestones=milestones, optimizer__milestones=milestones, **changes)
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 10))
    wrapped = perturbify.wrap(network, PerturbConfig(grain="layer"), example_input=torch.rand(2, 3, 4, 4))
    method = methods.get(chosen.method)
    trainer = Trainer(wrapped.train(), chosen, method)
    trainer.theta_pace = pace(chosen, 128 * in_each, warms_up=method.alternates)
    for epoch in range(epochs):
        trainer.set_epoch(epoch)
        for i in range(in_each):
            phase = phase_at(epoch, i, in_each, chosen.train, method)
            if phase.thetas:
                trainer.optimizers["thetas"].zero_grad()
                trainer.update(phase, epoch)
    return trainer.thetas[0].item()


@pytest.mark.parametrize(("epochs", "in_each"), [(35, 100), (14, 250)])
def test_a_short_run_covers_the_full_distance(epochs, in_each):
    assert regularised(epochs, in_each) == pytest.approx(full()[-1], rel=0.05)
    assert regularised(epochs, in_each, train__theta_schedule="plain") < 0.4


def test_gamma_taken_literally(make_learner):
    """θ moves by γ∇g outright, beside the step of its optimiser, whatever that one's rate is by now."""
    changes = {"train__gamma": 2.0, "train__theta_schedule": "plain", "method": "learn2perturb-r"}
    trainer, x, y = make_learner(**changes, train__gamma_form="literal", theta_optimizer__lr=0.0)
    before = [theta.detach().clone() for theta in trainer.thetas]
    trainer.step(x, y, JOINT_STEP, 1)
    for old, theta in zip(before, trainer.thetas, strict=True):
        torch.testing.assert_close(theta.detach(), old + 2.0 * 5 / 128 / (2 * old.sqrt()))  # batches of 5, τ = 1
    trainer.theta_pace = 3.0
    before = [theta.detach().clone() for theta in trainer.thetas]
    trainer.step(x, y, JOINT_STEP, 1)
    for old, theta in zip(before, trainer.thetas, strict=True):
        torch.testing.assert_close(theta.detach(), old + 3 * 2.0 * 5 / 128 / (2 * old.sqrt()))


@pytest.mark.parametrize("labels", ["true", "predicted"])
def test_the_labels_that_the_attack_uses(labels, make_learner, monkeypatch):
    trainer, x, y = make_learner(attack__labels=labels)
    given_labels = []
    crafted = steps.pgd
    monkeypatch.setattr(steps, "pgd", lambda *a: given_labels.append(a[2]) or crafted(*a))
    trainer.model.requires_grad_(False)
    next(m for m in trainer.model.modules() if isinstance(m, nn.Linear)).bias.copy_(torch.tensor([0.0, 0.0, 100.0]))
    trainer.model.requires_grad_(True)
    trainer.step(x, y, JOINT_STEP, 1)
    assert torch.equal(given_labels[0], y if labels == "true" else torch.full_like(y, 2))
