"""How long a job may take, by a few steps of it on this machine."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from perturbify.checks import Estimate, check
from perturbify.data import Data
from perturbify.reproduction.job import Job, Reproduction, training_images
from perturbify.reproduction.run import network
from perturbify.training import launch

IMAGES = 32
"""Images to train on, in two batches, twice; the second time counts."""


def seconds(reproduction: Reproduction, job: Job, data: Data, *, device: str = "auto") -> tuple[float, float]:
    """Trains a job's network on a few images for two epochs, and begins its check.

    All epochs count as epochs with noise and attack, which overestimates by the warm-up; on a GPU, where small
    batches run slowly and nothing is compiled here, the estimate is higher still.

    Args:
        reproduction: What was asked for.
        job: A job with a recipe.
        data: Its images.
        device: As for :func:`perturbify.finetune`.

    Returns:
        Seconds of training and of the check, for the whole recipe and plan.

    Raises:
        PerturbifyError: The job cannot be run.
    """
    assert job.recipe is not None
    model, recipe = network(reproduction, job.recipe, data)
    images = training_images(recipe, data)
    few = replace(
        recipe,
        data=replace(recipe.data, train_images=min(IMAGES, images), held_out=None),
        train=replace(recipe.train, epochs=2, warmup_epochs=0, batch_size=IMAGES // 2, accumulate=1, tensorboard=False),
        attack=replace(recipe.attack, from_epoch=0),
        speed=replace(recipe.speed, compile="off", cuda_graphs=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        result = launch.finetune(model, few, Path(folder) / "run", data=data, device=device)
    training = recipe.train.epochs * images / result.metrics[-1]["images_per_second"]
    found: list[float] = []

    def stop(estimate: Estimate) -> None:
        found.append(estimate.seconds)
        raise _Enough

    # Whose images are transferred is such a network, too.
    sources = {} if job.surrogate is None else {job.surrogate: result.model}
    with suppress(_Enough):
        check(result.model, data, job.plan, sources=sources, on_start=stop)
    return training, found[0]


class _Enough(Exception):
    """Ends a check once it has estimated its time."""
