"""Learn2Perturb-R's θ follows one deterministic schedule, whose values docs/constants.md gives to three digits."""

import pytest
import torch
from torch import nn

import perturbify
from perturbify import PerturbConfig, methods, recipe
from perturbify.training.phases import phase_at
from perturbify.training.step import Trainer

STEPS = 391  # of an epoch: 50,000 images in batches of 128
KNOWN = {11: 0.287, 20: 0.419, 50: 0.636, 100: 0.874, 150: 1.06, 350: 1.10}
"""θ after so many epochs."""


def trainer():
    """The release's constants, and one θ with one element."""
    settings = recipe.load("cifar10", {"method": "learn2perturb-r", "train.joint": True, "train.warmup_epochs": 10})
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 10))
    wrapped = perturbify.wrap(network, PerturbConfig(grain="layer"), example_input=torch.rand(2, 3, 4, 4))
    return Trainer(wrapped.train(), settings, methods.get(settings.method))


def follow(epochs):
    """θ after each of the epochs in ``KNOWN``, by the updates that a joint step makes of θ."""
    one = trainer()
    (theta,) = one.thetas
    seen = {}
    for epoch in range(epochs):
        one.set_epoch(epoch)
        for step in range(STEPS):
            if phase_at(epoch, step, STEPS, one.recipe.train, one.method).thetas:
                one.optimizers["thetas"].zero_grad()
                one.update(phase_at(epoch, step, STEPS, one.recipe.train, one.method), epoch)
        if epoch + 1 in KNOWN:
            seen[epoch + 1] = theta.item()
    return seen


def assert_to_three_digits(seen):
    assert {epoch: float(f"{theta:.3g}") for epoch, theta in seen.items()} == {
        epoch: known for epoch, known in KNOWN.items() if epoch in seen
    }


def test_the_schedule_to_epoch_20():
    seen = follow(20)
    assert set(seen) == {11, 20}
    assert_to_three_digits(seen)


@pytest.mark.slow
def test_the_whole_schedule():
    seen = follow(350)
    assert set(seen) == set(KNOWN)
    assert_to_three_digits(seen)


def test_theta_moves_by_the_schedule_alone():
    """The images, the attack and W have no say: whole steps give bit for bit what the updates alone give."""
    whole, alone = trainer(), trainer()
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        x, y = torch.rand(2, 3, 4, 4, generator=generator), torch.tensor([step, 3])
        phase = phase_at(10, step, STEPS, whole.recipe.train, whole.method)
        whole.step(x, y, phase, 10)
        alone.optimizers["thetas"].zero_grad()
        alone.update(phase, 10)
        assert torch.equal(whole.thetas[0], alone.thetas[0])
    assert whole.thetas[0].item() > 0.25
