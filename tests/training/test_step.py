"""One step of the trainer: who moves, by how much, and what the attack leaves behind."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import perturbify
from perturbify.attacks import Pgd, frozen_eval, pgd
from perturbify.methods.theta_way import harmonic
from perturbify.training.metrics import StepResult
from perturbify.training.phases import JOINT_STEP, PLAIN, THETA_STEP, W_STEP, WARM_UP
from perturbify.training.step import Trainer

PLAIN_SGD = {
    f"{group}__{key}": value
    for group in ("optimizer", "theta_optimizer")
    for key, value in {"momentum": 0.0, "nesterov": False}.items()
}


def same(a, b):
    return {name: torch.equal(a[name], b[name]) for name in a}


def losses_by_hand(trainer, model, x, y, *, seed, noisy):
    """The two losses of a step, made anew from the public parts."""
    torch.manual_seed(seed)
    a = trainer.recipe.attack
    with perturbify.noise(model, noisy):
        crafted = pgd(model, x, y, Pgd(a.epsilon, a.step_size, a.steps, a.random_start))
        # Clean images without a weight are only looked at: batch norm does not learn from them.
        with frozen_eval(model) if a.weight == 1 else contextlib.nullcontext():
            clean = F.cross_entropy(model(x), y)
        return clean, F.cross_entropy(model(crafted), y)


# Who moves


@pytest.mark.parametrize("phase", [WARM_UP, W_STEP, PLAIN], ids=lambda p: p.name)
def test_a_w_step_leaves_every_theta_bit_identical(phase, make_learner, snapshot):
    trainer, x, y = make_learner()
    weights, thetas = snapshot(trainer.model)
    trainer.step(x, y, phase, 0)
    moved_weights, moved_thetas = snapshot(trainer.model)
    assert all(same(thetas, moved_thetas).values())
    assert not any(same(weights, moved_weights).values())
    assert all(theta.grad is None for theta in trainer.thetas)


def test_a_theta_step_leaves_w_bit_identical(make_learner, snapshot):
    trainer, x, y = make_learner(optimizer__weight_decay=0.1)
    for phase in (W_STEP, THETA_STEP):  # the first gives W momentum, which must not move it in the second
        weights, thetas = snapshot(trainer.model)
        trainer.step(x, y, phase, 1)
    moved_weights, moved_thetas = snapshot(trainer.model)
    assert all(same(weights, moved_weights).values())
    assert not any(same(thetas, moved_thetas).values())


def test_a_joint_step_moves_both(make_learner, snapshot):
    trainer, x, y = make_learner()
    before = snapshot(trainer.model)
    trainer.step(x, y, JOINT_STEP, 1)
    for group, moved in zip(before, snapshot(trainer.model), strict=True):
        assert not any(same(group, moved).values())


@pytest.mark.parametrize("method", ["vanilla", "none"])
def test_a_method_without_noise_has_no_theta(method, make_learner):
    trainer, x, y = make_learner(method=method)
    assert trainer.thetas == []
    assert set(trainer.optimizers) == {"weights"}
    assert list(perturbify.perturbations(trainer.model)) == []
    (result,) = StepResult.read([trainer.step(x, y, PLAIN, 0)])
    assert (result.adversarial_loss is None) == (method == "none")


# By how much


@pytest.mark.parametrize("share", [0.5, 0.2, 1.0])
def test_a_w_step_follows_the_weighted_loss(share, make_learner, snapshot):
    trainer, x, y = make_learner(attack__weight=share, optimizer__weight_decay=0.01, **PLAIN_SGD)
    twin = copy.deepcopy(trainer.model)
    clean, adversarial = losses_by_hand(trainer, twin, x, y, seed=3, noisy=True)
    names = list(snapshot(twin)[0])
    parameters = dict(twin.named_parameters())
    loss = (1 - share) * clean + share * adversarial
    gradients = torch.autograd.grad(loss, [parameters[n] for n in names])

    torch.manual_seed(3)
    (result,) = StepResult.read([trainer.step(x, y, W_STEP, 1)])
    assert result.clean_loss == clean.item()
    assert result.adversarial_loss == adversarial.item()
    moved, _ = snapshot(trainer.model)
    for name, gradient in zip(names, gradients, strict=True):
        w = parameters[name].detach()
        torch.testing.assert_close(moved[name], w - 0.1 * (gradient + 0.01 * w))


@pytest.mark.parametrize("method", ["learn2perturb", "learn2perturb-r"])
def test_a_theta_step_follows_loss_and_regularizer(method, make_learner, snapshot):
    settings = {"train__gamma": 3.0, "theta_optimizer__lr": 0.05, "train__theta_schedule": "plain"}
    trainer, x, y = make_learner(method=method, **settings, **PLAIN_SGD)
    trainer.set_epoch(2)
    twin = copy.deepcopy(trainer.model)
    clean, adversarial = losses_by_hand(trainer, twin, x, y, seed=4, noisy=True)
    thetas = {name: p.theta for name, p in perturbify.perturbations(twin)}
    gradients = torch.autograd.grad(0.5 * clean + 0.5 * adversarial, list(thetas.values()))

    torch.manual_seed(4)
    trainer.step(x, y, THETA_STEP, 2)
    _, moved = snapshot(trainer.model)
    gamma, tau = 3.0 * 5 / 128, harmonic(2)  # batches of 5; epoch 2 is the second with noise
    for (name, theta), gradient in zip(thetas.items(), gradients, strict=True):
        of_loss = gradient if method == "learn2perturb" else 0.0
        by_hand = theta - 0.05 * (of_loss - gamma / (2 * tau * theta.sqrt()))
        torch.testing.assert_close(moved[name], by_hand.clamp(min=0.01).detach())


def test_gamma_is_scaled_with_the_batch_size(make_learner, snapshot):
    moves = []
    for batch_size in (4, 8):
        trainer, x, y = make_learner(
            method="learn2perturb-r", train__batch_size=batch_size, train__gamma=0.5, **PLAIN_SGD
        )
        trainer.step(x, y, THETA_STEP, 1)
        moves.append(next(iter(snapshot(trainer.model)[1].values())) - 0.25)
    torch.testing.assert_close(moves[1], 2 * moves[0])


def test_theta_never_falls_below_its_floor(make_learner):
    trainer, x, y = make_learner(theta_optimizer__lr=20.0, train__gamma=0.0, train__joint=True)
    touched = False
    for step in range(12):
        torch.manual_seed(step)
        trainer.step(x, y, THETA_STEP, 1)
        for theta in trainer.thetas:
            assert (theta >= 0.01).all()
            touched = touched or bool((theta == 0.01).any())
    assert touched


def test_the_attack_starts_at_its_epoch(make_learner):
    trainer, x, y = make_learner(attack__from_epoch=2)
    first, second = StepResult.read([trainer.step(x, y, W_STEP, epoch) for epoch in (1, 2)])
    assert first.adversarial_loss is None
    assert second.adversarial_loss is not None
    assert 0 <= second.adversarial_correct <= len(y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_loss_changes_nothing(bad, make_learner, snapshot):
    trainer, x, y = make_learner(attack__weight=0.0)
    before = snapshot(trainer.model)
    (result,) = StepResult.read([trainer.step(x * bad, y, JOINT_STEP, 1)])
    assert result.clean_loss != result.clean_loss
    for group, after in zip(before, snapshot(trainer.model), strict=True):
        assert all(same(group, after).values())
    assert not trainer.is_finite()  # batch norm has seen the images


def test_a_parameter_that_the_loss_does_not_reach(make_learner):
    trainer, x, y = make_learner()
    trainer.model.register_parameter("idle", nn.Parameter(torch.ones(2)))
    trainer = Trainer(trainer.model, trainer.recipe, trainer.method)
    trainer.step(x, y, W_STEP, 1)
    assert torch.equal(trainer.model.idle, torch.ones(2))


def test_a_frozen_weight_stays(make_learner):
    trainer, x, y = make_learner()
    frozen = trainer.model.get_submodule("0").weight.requires_grad_(False)
    before = frozen.clone()
    trainer = Trainer(trainer.model, trainer.recipe, trainer.method)
    trainer.step(x, y, JOINT_STEP, 1)
    assert torch.equal(frozen, before)


# What the attack and the noise leave behind


def test_batch_norm_is_in_eval_mode_during_attacks(make_learner):
    trainer, x, y = make_learner()
    norm, modes = trainer.model.get_submodule("1"), []
    norm.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    trainer.step(x, y, W_STEP, 1)
    assert modes == [False, False, True, True]  # two steps of PGD; then clean and attacked images
    assert norm.num_batches_tracked == 2
    norm.eval()  # one that the user froze stays frozen
    trainer.step(x, y, W_STEP, 1)
    assert not norm.training
    assert trainer.model.training
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize(("phase", "on"), [(WARM_UP, False), (W_STEP, True), (THETA_STEP, True), (JOINT_STEP, True)])
def test_the_noise_is_off_only_in_warm_up(phase, on, make_learner):
    trainer, x, y = make_learner()
    seen = []
    for _, perturbation in perturbify.perturbations(trainer.model):
        perturbation.register_forward_pre_hook(lambda module, _: seen.append(module.enabled))
    trainer.step(x, y, phase, 1)
    assert seen == [on] * 8  # two sites; two steps of PGD, clean and attacked images
    assert all(p.enabled for _, p in perturbify.perturbations(trainer.model))


def test_a_failed_attack_restores_modes_and_noise(make_learner):
    trainer, x, y = make_learner()

    def fail(*_):
        raise RuntimeError("no")

    handle = trainer.model.get_submodule("3").register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        trainer.step(x, y, WARM_UP, 0)
    handle.remove()
    assert all(module.training for module in trainer.model.modules())
    assert all(p.enabled for _, p in perturbify.perturbations(trainer.model))
