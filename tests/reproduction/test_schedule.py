"""A schedule, shortened in proportion."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perturbify import methods
from perturbify import recipe as recipes
from perturbify.reproduction.schedule import Steps, shortened, steps
from perturbify.training.phases import phase_at

CIFAR10 = recipes.load("cifar10")


@st.composite
def schedules(draw):
    whole = draw(st.integers(1, 400))
    epochs = st.integers(0, whole)
    milestones = st.lists(st.integers(0, 2 * whole), max_size=4, unique=True).map(lambda ms: tuple(sorted(ms)))
    return replace(
        CIFAR10,
        train=replace(CIFAR10.train, epochs=whole, warmup_epochs=draw(epochs)),
        attack=replace(CIFAR10.attack, from_epoch=draw(epochs)),
        optimizer=replace(CIFAR10.optimizer, milestones=draw(milestones)),
        theta_optimizer=replace(CIFAR10.theta_optimizer, milestones=draw(milestones)),
    )


def boundaries(recipe):
    return {"warm-up": recipe.train.warmup_epochs, "attack": recipe.attack.from_epoch}


def test_the_papers_schedule_in_seven_epochs():
    short = shortened(CIFAR10, 7)
    assert (short.train.epochs, short.train.warmup_epochs) == (7, 0)  # 20 of 350 are 0.4 of 7
    assert short.optimizer.milestones == short.theta_optimizer.milestones == (3, 5)
    release = replace(CIFAR10, attack=replace(CIFAR10.attack, from_epoch=50))
    assert shortened(release, 7).attack.from_epoch == 1


def test_one_epoch_starts_with_noise_and_attack():
    late = replace(
        CIFAR10,
        train=replace(CIFAR10.train, warmup_epochs=349),
        attack=replace(CIFAR10.attack, from_epoch=349),
    )
    short = shortened(late, 1)
    assert boundaries(short) == {"warm-up": 0, "attack": 0}
    assert short.optimizer.milestones == ()


def test_milestones_that_fall_together_count_once():
    assert shortened(CIFAR10, 2).optimizer.milestones == (1,)


@given(schedules(), st.integers(1, 500))
def test_a_shortened_recipe_is_valid(recipe, epochs):
    short = shortened(recipe, epochs)
    assert recipes.from_toml(recipes.to_toml(short), short.name) == short  # every rule of a recipe holds
    assert short.train.epochs == min(epochs, recipe.train.epochs)
    kept = replace(
        short,
        train=recipe.train,
        attack=recipe.attack,
        optimizer=recipe.optimizer,
        theta_optimizer=recipe.theta_optimizer,
    )
    assert kept == recipe  # nothing but the schedule has changed


@given(schedules(), st.integers(0, 100))
def test_a_sufficient_budget_changes_nothing(recipe, spare):
    assert shortened(recipe, recipe.train.epochs + spare) is recipe


@given(schedules(), st.integers(1, 400))
def test_every_boundary_keeps_its_share_of_training(recipe, epochs):
    assume(epochs < recipe.train.epochs)
    short, share = shortened(recipe, epochs), epochs / recipe.train.epochs
    for name, before in boundaries(recipe).items():
        after = boundaries(short)[name]
        assert abs(after - share * before) <= 0.5 or after == epochs - 1
        assert (after < epochs) == (before < recipe.train.epochs)  # what was trained with still is
    for before, after in (
        (recipe.optimizer.milestones, short.optimizer.milestones),
        (recipe.theta_optimizer.milestones, short.theta_optimizer.milestones),
    ):
        for milestone in after:
            assert any(abs(milestone - share * m) <= 0.5 or milestone == 1 for m in before)
        for m in before:  # none is lost but at the end
            assert share * m >= epochs - 0.5 or any(abs(a - share * m) <= 1 for a in after) or epochs == 1
        assert (0 in after) == (0 in before)  # a learning rate that was used is used still


@given(schedules(), st.integers(1, 400))
def test_the_order_of_the_phases_stays(recipe, epochs):
    short = shortened(recipe, epochs)
    assert (boundaries(short)["warm-up"] <= boundaries(short)["attack"]) or (
        boundaries(recipe)["warm-up"] > boundaries(recipe)["attack"]
    )


def test_zero_epochs_are_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        shortened(CIFAR10, 0)


def test_the_full_schedule_in_steps():
    joint = replace(CIFAR10, train=replace(CIFAR10.train, joint=True))
    assert steps(joint, methods.get("learn2perturb"), 50_000) == Steps(350 * 391, 350 * 391, 330 * 391)
    turns = replace(CIFAR10, train=replace(CIFAR10.train, joint=False))
    assert steps(turns, methods.get("learn2perturb"), 50_000) == Steps(350 * 391, 20 * 391 + 64_515, 64_515)
    assert steps(CIFAR10, methods.get("vanilla"), 50_000) == Steps(350 * 391, 350 * 391, 0)
    assert steps(CIFAR10, methods.get("rse"), 50_000).thetas == 0  # its σ is fixed
    assert steps(CIFAR10, methods.get("pni"), 50_000).thetas == 350 * 391


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(1, 900))
def test_step_counts_match_the_steps_taken(epochs, warmup, w_steps, theta_steps, joint, images):
    train = replace(
        CIFAR10.train,
        **{"epochs": epochs, "warmup_epochs": min(warmup, epochs), "batch_size": 128},
        **{"w_steps": w_steps, "theta_steps": theta_steps, "joint": joint},
    )
    method, epoch = methods.get("learn2perturb"), max(1, images // 128 + (images % 128 > 1))
    taken = [phase_at(e, s, epoch, train, method) for e in range(epochs) for s in range(epoch)]
    counted = Steps(len(taken), sum(p.weights for p in taken), sum(p.thetas for p in taken))
    assert steps(replace(CIFAR10, train=train), method, images) == counted
