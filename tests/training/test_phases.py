"""Who learns when: the phases, τ's epoch, and the learning rates."""

from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbify import methods, recipe
from perturbify.settings import OptimizerSettings
from perturbify.training.phases import learning_rate, phase_at

L2P = methods.get("learn2perturb")


def names(steps_per_epoch, settings, method=L2P):
    return [
        phase_at(epoch, step, steps_per_epoch, settings, method).name
        for epoch in range(settings.epochs)
        for step in range(steps_per_epoch)
    ]


def settings(**changes):
    return replace(recipe.load("smoke").train, **{"joint": False, **changes})


def test_warm_up_then_turns_across_epoch_boundaries():
    said = names(5, settings(epochs=4, warmup_epochs=2, w_steps=2, theta_steps=1))
    assert said[:10] == ["warm-up"] * 10
    assert said[10:] == ["W-step", "W-step", "θ-step"] * 3 + ["W-step"]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 7), st.integers(0, 3))
def test_every_turn_has_its_length(w_steps, theta_steps, steps_per_epoch, warm_up):
    said = names(steps_per_epoch, settings(epochs=9, warmup_epochs=warm_up, w_steps=w_steps, theta_steps=theta_steps))[
        warm_up * steps_per_epoch :
    ]
    turns = [(name, len(list(run))) for name, run in groupby(said)]
    wanted = {"W-step": w_steps, "θ-step": theta_steps}
    assert turns[0][0] == "W-step"
    assert all(length == wanted[name] for name, length in turns[:-1])
    assert turns[-1][1] <= wanted[turns[-1][0]]


def test_joint_steps_and_methods_without_noise():
    assert names(2, settings(epochs=2, warmup_epochs=1, joint=True)) == ["warm-up"] * 2 + ["joint step"] * 2
    for name in ("vanilla", "none"):
        assert set(names(2, settings(epochs=2), methods.get(name))) == {"plain"}


def test_what_each_phase_does():
    def does(epoch, step, **changes):
        phase = phase_at(epoch, step, 4, settings(warmup_epochs=1, **changes), L2P)
        return phase.weights, phase.thetas, phase.noise

    assert does(0, 0) == (True, False, False)
    assert does(1, 0) == (True, False, True)
    assert does(1, 1) == (False, True, True)
    assert does(1, 1, joint=True) == (True, True, True)


def test_learning_rates_fall_at_the_milestones():
    sgd = OptimizerSettings(lr=0.1, milestones=(150, 250), decay=0.1)
    at = {epoch: learning_rate(sgd, epoch) for epoch in (0, 149, 150, 249, 250, 349)}
    assert at == pytest.approx({0: 0.1, 149: 0.1, 150: 0.01, 249: 0.01, 250: 0.001, 349: 0.001})
    assert learning_rate(OptimizerSettings(lr=0.3), 1000) == 0.3


def test_the_trainer_sets_both_rates(make_learner):
    trainer, _, _ = make_learner(
        optimizer__milestones=[1, 2], theta_optimizer__milestones=[2], theta_optimizer__lr=0.4, train__epochs=4
    )
    for epoch, rates in enumerate([(0.1, 0.4), (0.01, 0.4), (0.001, 0.04), (0.001, 0.04)]):
        said = trainer.set_epoch(epoch)
        assert tuple(said.values()) == pytest.approx(rates)
        assert {n: o.param_groups[0]["lr"] for n, o in trainer.optimizers.items()} == said
