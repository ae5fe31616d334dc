"""Every defence in training: what learns, what moves it, and that its file answers as it did."""

import math

import pytest
import torch
from networks.runs import Killed
from torch import nn

import perturbify
from perturbify import methods, recipe, zoo
from perturbify.methods.adv_bnn import divergence
from perturbify.perturbation import perturbations
from perturbify.training import finetune
from perturbify.training.launch import load_data
from perturbify.training.phases import JOINT_STEP, THETA_STEP

NOISY = ("learn2perturb", "learn2perturb-r", "pni", "rse", "adv-bnn", "pixeldp")
STEPS = {"none": "plain", "vanilla": "plain", "rse": "step", "pixeldp": "step"}


@pytest.mark.parametrize("name", methods.names())
def test_every_method_trains_saves_and_loads(name, start, build, data):
    result = start("run", method=name, train__epochs=2, train__warmup_epochs=1)
    last = result.metrics[-1]
    assert set(last["steps"]) == {STEPS.get(name, "joint step")}
    assert (last["adversarial_loss"] is not None) == methods.get(name).adversarial
    assert (last["theta"] is not None) == (name in NOISY)
    loaded = perturbify.load(result.folder.model, model=build())
    assert loaded.surgery.method == name
    x, _ = next(data.test.batches(5))
    answers = []
    for network in (result.model, loaded):
        torch.manual_seed(1)
        answers.append(perturbify.predict(network, x))
    assert torch.equal(answers[0].probabilities, answers[1].probabilities)
    assert answers[0].draws == methods.get(name).draws
    assert (answers[0].radii is not None) == (name == "pixeldp")
    torch.testing.assert_close(answers[0].probabilities.sum(1), torch.ones(5))
    assert all(p.theta.requires_grad == (name not in ("rse", "pixeldp")) for _, p in perturbations(loaded))


@pytest.mark.parametrize("name", ["pni", "adv-bnn"])
def test_a_killed_run_resumes_bit_for_bit(name, start, continue_run):
    """Adv-BNN by Adam, whose moments and count of steps are state as well."""
    how = {"optimizer__kind": "adam", "theta_optimizer__kind": "adam"} if name == "adv-bnn" else {}
    undisturbed = start("undisturbed", method=name, **how)
    with pytest.raises(Killed):
        start("killed", method=name, stop_after=7, **how)
    resumed = continue_run("killed")
    one, other = undisturbed.model.state_dict(), resumed.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_adam_is_adam(make_learner):
    trainer, x, y = make_learner(method="adv-bnn", optimizer__kind="adam", optimizer__lr=0.01, train__gamma=0)
    assert {type(o) for o in trainer.optimizers.values()} == {torch.optim.Adam, torch.optim.SGD}
    before = [w.detach().clone() for w in trainer.weights]
    trainer.step(x, y, JOINT_STEP, 0)
    # Its first step is of the learning rate's length, whatever the gradient.
    moved = torch.cat([(w - b).abs().flatten() for w, b in zip(trainer.weights, before, strict=True)])
    assert moved.max().item() == pytest.approx(0.01, rel=0.01)


def test_the_divergence_moves_means_and_deviations(make_learner):
    """One step without a loss: what is left is the gradient of α/N KL, worked out by hand."""
    trainer, *_ = make_learner(
        method="adv-bnn",
        train__gamma=0.02,
        optimizer__momentum=0,
        optimizer__nesterov=False,
        optimizer__weight_decay=0,
        theta_optimizer__momentum=0,
        theta_optimizer__nesterov=False,
    )
    trainer.images = 10
    for one in (*trainer.weights, *trainer.thetas):
        one.grad = torch.zeros_like(one)
    mu = [w.detach().clone() for w in trainer.weights]
    s = [t.detach().clone() for t in trainer.thetas]
    rates = trainer.set_epoch(0)
    trainer.update(JOINT_STEP, 0)
    share = 0.02 / 10
    for now, was in zip(trainer.weights, mu, strict=True):
        torch.testing.assert_close(now, was - rates["weights"] * share * was / 0.1**2)
    for now, was in zip(trainer.thetas, s, strict=True):
        torch.testing.assert_close(now, was - rates["thetas"] * share * ((2 * was).exp() / 0.1**2 - 1))


def test_the_divergence_sums_over_every_parameter(make_learner):
    trainer, *_ = make_learner(method="adv-bnn")
    stage = methods.Stage(k=1, batch_size=5, images=7, gamma=0.02)
    penalty = trainer.method.penalty(trainer._noisy, stage)
    source = perturbify.unwrap(trainer.model)
    prior = torch.distributions.Normal(0.0, 0.1)
    by_torch = sum(
        torch.distributions.kl_divergence(torch.distributions.Normal(p.detach(), 0.1), prior).sum()
        for p in source.parameters()
    )
    assert len(trainer._noisy) == len(list(source.parameters()))
    assert penalty.item() == pytest.approx(0.02 / 7 * by_torch.item(), rel=1e-4)
    assert divergence(torch.zeros(3), torch.full((1,), math.log(0.1))).item() == pytest.approx(0, abs=1e-5)


def test_learn2perturb_r_ignores_the_loss(make_learner):
    trainer, x, y = make_learner(method="learn2perturb-r", train__joint=True)
    trainer.step(x, y, JOINT_STEP, 1)
    thetas = torch.cat([t.detach().flatten() for t in trainer.thetas])
    assert thetas.min() == thetas.max() > 0.25


def test_theta_only_steps_attack_nothing_and_keep_statistics(make_learner, monkeypatch):
    from perturbify.training import step

    trainer, x, y = make_learner(method="learn2perturb-r")
    before = {name: b.clone() for name, b in trainer.model.named_buffers()}
    monkeypatch.setattr(step, "pgd", None)
    figures = trainer.step(x, y, THETA_STEP, 1)
    assert not figures.attacked and figures.values[0] > 0
    assert all(torch.equal(b, before[name]) for name, b in trainer.model.named_buffers())


def test_adversarial_only_training_sees_no_clean_images(make_learner):
    trainer, x, y = make_learner(method="adv-bnn", attack__weight=1.0, attack__from_epoch=0)
    counted = next(m for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d)).num_batches_tracked
    figures = trainer.step(x, y, JOINT_STEP, 0)
    assert figures.attacked and (figures.values[[0, 2]] > 0).all()
    assert counted == 1


def digits(tmp_path, method, *overrides):
    """Three epochs on digits by plain cross-entropy on clean images; the mean size of θ (or α) after them."""
    chosen = recipe.load(
        "digits",
        [
            *(f"method={method}", "train.epochs=3", "train.warmup_epochs=0", "train.joint=true"),
            *("attack.from_epoch=9", "optimizer.milestones=[]", "theta_optimizer.milestones=[]", *overrides),
        ],
    )
    torch.manual_seed(0)
    model = zoo.create(chosen.model, num_classes=10)
    result = finetune(model, chosen, tmp_path / "-".join((method, *overrides)), data=load_data(chosen))
    assert result.metrics[-1]["clean_accuracy"] > 0.8
    thetas = [p.theta.detach().abs().flatten() for _, p in perturbations(result.model)]
    return torch.cat(thetas).mean().item()


def test_the_regulariser_keeps_theta_where_alpha_shrinks(tmp_path):
    """What the Learn2Perturb paper says of PNI: nothing but the loss moves α, and the loss wants no noise."""
    assert digits(tmp_path, "pni") < 0.5 * 0.25
    regularised, left_alone = digits(tmp_path, "learn2perturb"), digits(tmp_path, "learn2perturb", "train.gamma=0")
    assert regularised > 0.249
    assert left_alone < regularised - 0.001


def test_pixeldp_bounds_its_first_convolutions_sensitivity(make_learner):
    from perturbify.certification.mechanism import find_mechanism

    trainer, x, y = make_learner(method="pixeldp", optimizer__lr=0.5)
    for _ in range(3):
        trainer.step(x, y, JOINT_STEP, 0)
        assert find_mechanism(trainer.model).sensitivity <= 1 + 1e-5
    assert not trainer.thetas and set(trainer.optimizers) == {"weights"}


def test_theta_starts_relative_to_its_activations(make_learner, data):
    trainer, *_ = make_learner(perturb__theta_init="0.1x", perturb__theta_min=1e-4)
    from perturbify.spread import relative_noise

    x, _ = next(data.train.batches(trainer.recipe.train.batch_size))
    ratios = relative_noise(trainer.model, x)
    assert ratios and all(ratio == pytest.approx(0.1, rel=1e-3) for ratio in ratios.values())
