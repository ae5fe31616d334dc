"""The loop: warm-up of W with the noise off, then W- and θ-steps in turn, saved so that it can be killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perturbify import checkpoint, methods
from perturbify import data as datasets
from perturbify import recipe as recipes
from perturbify.data import Data, augment
from perturbify.errors import Diverged, TrainingError
from perturbify.files import write_text
from perturbify.header import Header
from perturbify.model_card import model_card
from perturbify.ranks import ranks
from perturbify.recipe import Recipe
from perturbify.surgery.perturbed import Perturbed
from perturbify.training import held_out, state
from perturbify.training.folder import RunFolder
from perturbify.training.metrics import Clock, EpochSums, Progress, is_finite, summarize_epoch
from perturbify.training.phases import Phase, phase_at
from perturbify.training.prepare import prepare
from perturbify.training.seeds import private_generators, seed_step, shuffled
from perturbify.training.state import Position
from perturbify.training.step import Learner
from perturbify.training.stopping import stop_requests

OnStep = Callable[[Progress], None]


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        model: The network, in eval mode, noise on.
        folder: Where the run lies.
        metrics: One entry an epoch, as in ``metrics.jsonl``.
    """

    model: Perturbed
    folder: RunFolder
    metrics: list[dict[str, Any]]


def finetune(
    model: nn.Module,
    recipe: Recipe | str | Path,
    run_dir: str | Path,
    *,
    data: Data | None = None,
    device: str = "auto",
    download: bool = False,
    force: bool = False,
    on_step: OnStep | None = None,
) -> Result:
    """Trains the weights and the noise of a network in turn (Learn2Perturb, Algorithm 1).

    In processes that torchrun started, each takes its part of every batch, with noise of its own; the first one writes.

    Args:
        model: A plain network, which is wrapped on a copy by the recipe's settings, with a normalisation layer inside;
            or one that :func:`perturbify.wrap` or :func:`perturbify.load` returned, which is trained itself.
        recipe: A recipe, or the name or file of one.
        run_dir: A folder for the run; it must be empty or absent.
        data: The images; by default those that the recipe names.
        device: ``"auto"`` takes a GPU where there is one; else as torch names devices.
        download: Whether a dataset that is not on this machine may be fetched.
        force: Whether a run in the folder may be replaced.
        on_step: Called after every step.

    On SIGINT (Ctrl-C) and SIGTERM the step is finished and the state saved, before either has its usual effect.

    Returns:
        The trained network and where its files lie.

    Raises:
        Diverged: A loss, a weight or θ is no longer finite; the last good state is kept in the folder.
        PerturbifyError: Anything else that is wrong with model, recipe, data, device, or folder, before training.
    """
    recipe = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    method = methods.get(recipe.method)
    target = choose_device(device)
    folder = RunFolder(Path(run_dir))
    with ranks() as among:
        if among.first:
            folder.check(force=force)
        data = data or load_data(recipe, download=download)
        network = _place(prepare(model, recipe, data, method), target)
        if network.surgery.plan.config is not None:
            recipe = replace(recipe, perturb=network.surgery.plan.config)
        learner = Learner(network, recipe, method, among)
        if among.first:
            folder.create(recipe, force=force)
            state.save(folder, learner, _header(learner, data, Position.start()), Position.start())
        return _train(learner, data, folder, Position.start(), on_step)


def resume(
    run_dir: str | Path,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    device: str = "auto",
    download: bool = False,
    trust_factory: bool = False,
    on_step: OnStep | None = None,
) -> Result:
    """Goes on with a run from its last saved state; on the CPU its results are those of the undisturbed run.

    Args:
        run_dir: The folder of the run.
        model: The source network, where it did not come from the zoo.
        data: The images, where the recipe does not name them.
        device: As for :func:`finetune`.
        download: As for :func:`finetune`.
        trust_factory: As for :func:`perturbify.load`.
        on_step: Called after every step.

    Raises:
        TrainingError: There is no run in the folder, or the images are others than it began with.
        CheckpointError: Its state is damaged.
    """
    folder = RunFolder(Path(run_dir))
    recipe = folder.read_recipe()
    target = choose_device(device)
    with ranks() as among:
        saved = state.read_last(folder)
        data = data or load_data(recipe, download=download)
        _check_same_data(saved.header, data, folder)
        network = _place(checkpoint.build(saved.header, saved.path, model, trust_factory=trust_factory), target)
        among.gather(None)  # all have read what the first one may replace
        if among.first:
            folder.sweep()
        saved.freeze(network)
        learner = Learner(network, recipe, methods.get(recipe.method), among)
        saved.restore(learner)
        return _train(learner, data, folder, saved.position, on_step)


def _train(learner: Learner, data: Data, folder: RunFolder, start: Position, on_step: OnStep | None) -> Result:
    recipe, model, among = learner.recipe, learner.model, learner.among
    train = recipe.train
    split = data.train if recipe.data.train_images is None else data.train.balanced(recipe.data.train_images)
    split, apart = split.divided(recipe.data.held_out) if recipe.data.held_out else (split, None)
    device = next(model.parameters()).device
    steps = _steps_per_epoch(len(split), train.batch_size, among.world)
    history = folder.read_metrics(before=start.epoch)
    clock, saved_at = Clock(), time.monotonic()

    with private_generators(), stop_requests() as requests:
        for epoch in range(start.epoch, train.epochs):
            resuming = epoch == start.epoch
            first = start.step if resuming else 0
            sums = start.sums if resuming and among.first else EpochSums()
            rates = learner.set_epoch(epoch)
            model.train()
            order = shuffled(len(split), recipe.seed, epoch)[: steps * train.batch_size]
            whole = order.split(train.batch_size)
            mine = [batch[among.rank :: among.world] for batch in whole]
            batches = split.batches(len(mine[0]), order=torch.cat(mine), start=first)
            for step, (x, y) in enumerate(batches, start=first):
                seed_step(recipe.seed, epoch, step, among.rank)
                x = augment(x.to(device), crop_padding=recipe.data.crop_padding, flip=recipe.data.flip)
                x = x.contiguous(memory_format=torch.channels_last)
                phase = phase_at(epoch, step, steps, train, learner.method)
                try:
                    result = learner.step(x, y.to(device), phase, epoch, images=len(whole[step]))
                except torch.OutOfMemoryError as error:
                    raise _too_large(learner, x, y.to(device), phase, epoch) from error
                sums.add(result, phase.name, clock.lap(len(whole[step])))
                late = time.monotonic() - saved_at > 60 * train.save_minutes
                failed, stop, late = among.any(not is_finite(result), requests.signal is not None, late, device=device)
                if failed:
                    raise _diverged(epoch, step, "the loss", recipe, folder)

                last = step == steps - 1
                due = last or stop or late
                if due and not learner.is_finite():
                    raise _diverged(epoch, step, "a weight or θ", recipe, folder)
                total = EpochSums.total(among.gather(sums)) if due else sums
                if last:
                    history.append(summarize_epoch(epoch, total, model, rates))
                    asked = (epoch + 1) % train.held_out_every == 0 or epoch == train.epochs - 1
                    if apart is not None and asked and among.first:
                        history[-1]["held_out"] = held_out.classify(model, apart, recipe, epoch)
                        if held_out.best_epoch(history) == epoch:
                            _write_model(folder.best, learner, data, Position(epoch + 1, 0, EpochSums()))
                if due:
                    position = Position(epoch + 1, 0, EpochSums()) if last else Position(epoch, step + 1, total)
                    if among.first:
                        folder.write_metrics(history)
                        state.save(folder, learner, _header(learner, data, position), position)
                    saved_at = time.monotonic()
                if on_step is not None:
                    steps_left = steps * (train.epochs - epoch) - step - 1
                    on_step(
                        Progress(
                            epoch,
                            train.epochs,
                            step,
                            steps,
                            phase.name,
                            clock.images_per_second,
                            clock.seconds_per_step * steps_left,
                            result.clean_loss,
                            result.adversarial_loss,
                            history[-1] if last else None,
                        )
                    )
                if stop:
                    among.gather(None)  # the first one has saved
                    requests.obey()
                    raise KeyboardInterrupt  # another process was asked

    # As a loaded file has it, so that both draw the same noise for one seed.
    model.eval().to(memory_format=torch.contiguous_format)
    # If nothing was left to do, the model's file may hold the figures of a check by now.
    if among.first and (start.epoch < train.epochs or not folder.model.is_file()):
        header = _write_model(folder.model, learner, data, Position(train.epochs, 0, EpochSums()))
        write_text(folder.card, model_card(header))
    among.gather(None)  # its file is there
    return Result(model, folder, history)


def _write_model(path: Path, learner: Learner, data: Data, position: Position) -> Header:
    header = _header(learner, data, position)
    about = {k: getattr(header, k) for k in ("classes", "method", "recipe", "trained")}
    return checkpoint.save(learner.model, path, overwrite=True, **about)


def load_data(recipe: Recipe, *, download: bool = False, default_size: int | None = None) -> Data:
    """The dataset a recipe names; ``default_size`` as for :func:`perturbify.data.load`."""
    settings = recipe.data
    return datasets.load(
        settings.name,
        root=settings.root,
        image_size=settings.image_size,
        default_size=default_size or datasets.DEFAULT_SIZE,
        download=download,
    )


def choose_device(name: str) -> torch.device:
    """The device a name means; ``"auto"`` is a GPU where there is one, and each of torchrun's processes has its own.

    Raises:
        TrainingError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f"There is no device {name!r} here ({reason}).", "Use --device cpu, or auto.") from error
    return device


def _place(network: Perturbed, device: torch.device) -> Perturbed:
    # Convolutions are faster with the channels innermost; what is computed is the same.
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check_same_data(header: Header, data: Data, folder: RunFolder) -> None:
    began_with = recipes.from_toml(header.recipe or "", "state").data.name
    if data.name != began_with or list(data.classes) != header.classes:
        raise TrainingError(
            f"The run in {folder.path} began with {len(header.classes or [])} classes of {began_with}; "
            f"these are {len(data.classes)} of {data.name}.",
            "Resume it with the data it began with, or start a new run.",
        )


def _steps_per_epoch(images: int, batch_size: int, world: int) -> int:
    # A last batch of one image a process is left out: batch norm has no variance over it.
    full, rest = divmod(images, batch_size)
    steps = full + (rest >= 2 * world or full == 0)
    least = min(batch_size, images)
    if world > 1 and least < 2 * world:
        raise TrainingError(
            f"A batch of {least} images cannot be shared out among {world} processes: each needs two.",
            "Raise train.batch_size, or start fewer processes.",
        )
    return steps


def _header(learner: Learner, data: Data, position: Position) -> Header:
    # A path on the trainer's machine is of no use to others: the file keeps the dataset's name only.
    recipe = replace(learner.recipe, data=replace(learner.recipe.data, name=data.name, root=None))
    return replace(
        checkpoint.describe(learner.model),
        classes=list(data.classes),
        method=learner.method.name,
        recipe=recipes.to_toml(recipe),
        trained={"epochs": position.epoch, "steps_into_next": position.step},
    )


def _too_large(learner: Learner, x: Tensor, y: Tensor, phase: Phase, epoch: int) -> TrainingError:
    """The error for a batch that does not fit; tries which one would, on a network whose run has ended anyway."""
    images = fitting = len(y)
    alone = learner.among.world == 1
    while alone and fitting > 2:
        fitting //= 2
        with suppress(torch.OutOfMemoryError):
            learner.step(x[:fitting], y[:fitting], phase, epoch)
            break
    else:
        fitting = 0
    return TrainingError(
        f"A step on {images} images does not fit into the memory of {x.device}.",
        f"One on {fitting} does: --set train.batch_size={fitting}, and learning rates to match."
        if fitting
        else "Lower train.batch_size, or the images' size.",
    )


def _diverged(epoch: int, step: int, what: str, recipe: Recipe, folder: RunFolder) -> Diverged:
    kept = state.read(folder.state).position
    return Diverged(
        f"Training diverged in epoch {epoch}, step {step}: {what} is no longer finite. "
        f"The last good state (epoch {kept.epoch}, step {kept.step}) is kept in {folder.state}.",
        f"Start again with a lower learning rate, such as --set optimizer.lr={recipe.optimizer.lr / 10:g}.",
    )
