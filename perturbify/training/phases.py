"""The phases of a run, as data: which parameters learn in a step, and whether the noise is on."""

from __future__ import annotations

from dataclasses import dataclass

from perturbify.methods import Method
from perturbify.settings import OptimizerSettings, TrainSettings


@dataclass(frozen=True)
class Phase:
    """What one kind of step does.

    Attributes:
        name: Its name in metrics and progress.
        weights: Whether the network weights W take a step.
        thetas: Whether the noise parameters θ take a step.
        noise: Whether the noise is on.
    """

    name: str
    weights: bool
    thetas: bool
    noise: bool


WARM_UP = Phase("warm-up", weights=True, thetas=False, noise=False)
W_STEP = Phase("W-step", weights=True, thetas=False, noise=True)
THETA_STEP = Phase("θ-step", weights=False, thetas=True, noise=True)
JOINT_STEP = Phase("joint step", weights=True, thetas=True, noise=True)
NOISY_STEP = Phase("step", weights=True, thetas=False, noise=True)
PLAIN = Phase("plain", weights=True, thetas=False, noise=False)


def phase_at(epoch: int, step: int, steps_per_epoch: int, settings: TrainSettings, method: Method) -> Phase:
    """The phase of a step; for Learn2Perturb's schedule by its Algorithm 1.

    Args:
        epoch: From 0.
        step: Step inside the epoch, from 0.
        steps_per_epoch: Steps of an epoch; alternation continues across epochs.
        settings: Length of the warm-up, and whether W and θ learn jointly or alternate, and for how many steps each.
        method: The defence; one without noise has one phase.
    """
    if method.perturb is None:
        return PLAIN
    if not method.alternates:
        return JOINT_STEP if method.perturb.learnable else NOISY_STEP
    if epoch < settings.warmup_epochs:
        return WARM_UP
    if settings.joint:
        return JOINT_STEP
    noisy_step = (epoch - settings.warmup_epochs) * steps_per_epoch + step
    turn = noisy_step % (settings.w_steps + settings.theta_steps)
    return W_STEP if turn < settings.w_steps else THETA_STEP


def learning_rate(settings: OptimizerSettings, epoch: int) -> float:
    """The learning rate of an epoch (from 0): the factor ``decay`` applies from each milestone on."""
    return settings.lr * settings.decay ** sum(epoch >= m for m in settings.milestones)
