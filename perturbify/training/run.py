"""A run in progress: epoch after epoch of steps, saved so that it can be killed at any moment."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perturbify import checkpoint
from perturbify import recipe as recipes
from perturbify.checkpoint.header import Header
from perturbify.data import Data, Split, augment
from perturbify.errors import Diverged, PerturbifyError, TrainingError
from perturbify.files import set_aside, signed, write_own
from perturbify.methods import theta_way
from perturbify.model_card import model_card
from perturbify.surgery.noisy import Perturbed
from perturbify.training import held_out, history, owned, state
from perturbify.training.events import Events
from perturbify.training.folder import RunFolder
from perturbify.training.metrics import (
    Clock,
    EpochSums,
    Progress,
    StepFigures,
    StepResult,
    is_finite,
    summarize_epoch,
)
from perturbify.training.phases import Phase, phase_at
from perturbify.training.seeds import private_generators, seed_step, shuffled
from perturbify.training.state import Position
from perturbify.training.step import Trainer
from perturbify.training.stopping import StopRequests, stop_requests

OnStep = Callable[[Progress], None]

LOOK_AT = 128
"""Number of the first training images on which activations are measured after each epoch; at most a batch."""

LOOK_EVERY = 20
"""Steps on a GPU between two reads of their figures: reading waits until all of them are done."""


class Run:
    """A run and what it works on.

    Args:
        trainer: Network and optimisers, in their current state.
        data: The images.
        folder: The run's folder, with its recipe.
        on_step: Called after every step.

    Raises:
        TrainingError: A batch cannot be divided among the processes.
        DataError: No images are left to train on.
    """

    def __init__(self, trainer: Trainer, data: Data, folder: RunFolder, on_step: OnStep | None) -> None:
        self._trainer, self._data, self._folder, self._on_step = trainer, data, folder, on_step
        self._recipe, self._processes = trainer.recipe, trainer.processes
        settings = self._recipe.data
        images = data.train if settings.train_images is None else data.train.balanced(settings.train_images)
        self._images: Split = images
        self._apart: Split | None = None
        if settings.held_out:
            self._images, self._apart = images.divided(settings.held_out)
        trainer.images = len(self._images)
        self._steps = _steps_per_epoch(len(self._images), self._recipe.train.batch_size, self._processes.world)
        trainer.theta_pace = theta_way.pace(self._recipe, trainer.images, warms_up=trainer.method.alternates)
        self._device = next(trainer.model.parameters()).device
        if _kept_on_device(self._images, self._device, self._recipe.speed.data_on_device):
            self._images = self._images.to(self._device)
        self._clock, self._saved_at = Clock(), time.monotonic()
        self._history: list[dict[str, Any]] = []
        wanted = self._recipe.train.tensorboard and self._processes.first
        self._events = Events(folder.tensorboard) if wanted else None

    def rehearse(self) -> None:
        """Checks that what the run will write at its end can be written.

        Raises:
            PerturbifyError: It cannot: a class name, for instance, is not valid text.
        """
        header = self._header(Position(self._recipe.train.epochs, 0, EpochSums()))
        header.to_json()  # which checks everything in it
        try:
            for text in (model_card(header), recipes.to_toml(self._recipe), str(self._folder.path)):
                text.encode()
        except UnicodeEncodeError as error:
            raise TrainingError(
                f"{error.object[max(error.start - 20, 0) : error.end + 20]!a} holds a character that cannot be written "
                "to a text file, as the run would have to.",
                "Rename the file or folder that has it.",
            ) from error

    def save(self, position: Position) -> None:
        """Saves the state; of several processes, the first does so for all."""
        if self._processes.first:
            header, images = self._header(position), self._data.fingerprint
            with self._resumable():
                state.save(self._folder, self._trainer, header, position, images=images, metrics=self._history)
        self._saved_at = time.monotonic()

    def train(self, start: Position, metrics: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Trains from a position to the end and writes the model.

        Args:
            start: The step to do first.
            metrics: Those of the previous epochs, as far as the state has them.

        Returns:
            The metrics of all epochs.

        Raises:
            Diverged: A loss, a weight or θ is no longer finite.
            KeyboardInterrupt, SystemExit: The run was asked to stop, and has saved its state.
        """
        epochs = self._recipe.train.epochs
        first = history.settle(self._folder.metrics, metrics, start.epoch) if self._processes.first else []
        self._history = self._processes.agree(first)
        with private_generators(), stop_requests() as requests:
            for epoch in range(start.epoch, epochs):
                self._train_epoch(start if epoch == start.epoch else Position(epoch, 0, EpochSums()), requests)
            self._obey(requests)
        # In the memory format of a loaded file, so that both draw the same noise for one seed.
        for network in self._networks():
            network.eval().to(memory_format=torch.contiguous_format)
        if self._processes.first:
            with self._resumable():
                self._write_results(trained=start.epoch < epochs)
        if self._events is not None:
            self._events.close()
        self._processes.gather(None)  # its file is there
        return self._history

    def _train_epoch(self, start: Position, requests: StopRequests) -> None:
        epoch, processes = start.epoch, self._processes
        sums = start.sums if processes.first else EpochSums()
        rates = self._trainer.set_epoch(epoch)
        self._trainer.model.train()
        if start.step >= self._steps:  # the present number of processes takes fewer steps
            self._end(epoch, EpochSums.total(processes.gather(sums)), rates)
        taken: list[tuple[int, Phase, StepFigures, float]] = []  # since the last read
        for step, x, y, images in self._batches(epoch, start.step):
            phase = phase_at(epoch, step, self._steps, self._recipe.train, self._trainer.method)
            figures = self._step(x, y, phase, epoch, images)
            last = step == self._steps - 1
            looking = self._trainer.waits or last or (step + 1) % LOOK_EVERY == 0
            results = StepResult.read([f for *_, f, _ in taken] + [figures]) if looking else []
            taken.append((step, phase, figures, self._clock.lap(images)))
            if looking:
                self._look(epoch, taken, results, sums, rates, requests)
                taken = []

    def _look(
        self,
        epoch: int,
        taken: Sequence[tuple[int, Phase, StepFigures, float]],
        results: Sequence[StepResult],
        sums: EpochSums,
        rates: dict[str, float],
        requests: StopRequests,
    ) -> None:
        """Records the steps since the last read, on which all processes agree, and saves the state when due."""
        processes, last = self._processes, taken[-1][0] == self._steps - 1
        for (_, phase, _, seconds), result in zip(taken, results, strict=True):
            sums.add(result, phase.name, seconds)
        bad = next((step for (step, *_), r in zip(taken, results, strict=True) if not is_finite(r)), None)
        late = time.monotonic() - self._saved_at > 60 * self._recipe.train.save_minutes
        failed, stop, late = processes.any(bad is not None, requests.signal is not None, late, device=self._device)
        if failed:
            raise self._diverged(epoch, min(b for b in processes.gather(bad) if b is not None), "the loss")
        if last or stop or late:
            step = taken[-1][0]
            if not self._trainer.is_finite():
                raise self._diverged(epoch, step, "a weight or θ")
            total = EpochSums.total(processes.gather(sums))
            if last:
                self._end(epoch, total, rates)
            else:
                self.save(Position(epoch, step + 1, total))
        for (step, phase, *_), result in zip(taken, results, strict=True):
            self._tell(epoch, step, phase, result, step == self._steps - 1)
        if stop:
            self._obey(requests)

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[int, Tensor, Tensor, int]]:
        """From a step on: its number, this process's images and labels, and the number of images of all processes."""
        size, processes, settings = self._recipe.train.batch_size, self._processes, self._recipe.data
        whole = shuffled(len(self._images), self._recipe.seed, epoch)[: self._steps * size].split(size)
        mine = [batch[processes.rank :: processes.world] for batch in whole]
        batches = self._images.batches(len(mine[0]), order=torch.cat(mine), start=first)
        for step, (x, y) in enumerate(batches, start=first):
            seed_step(self._recipe.seed, epoch, step, processes.rank)
            x = x.to(self._device, non_blocking=True)
            x = augment(x, crop_padding=settings.crop_padding, flip=settings.flip)
            if self._recipe.speed.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            yield step, x, y.to(self._device, non_blocking=True), len(whole[step])

    def _step(self, x: Tensor, y: Tensor, phase: Phase, epoch: int, images: int) -> StepFigures:
        try:
            return self._trainer.step(x, y, phase, epoch, images=images)
        except torch.OutOfMemoryError:
            pass  # the step's memory is freed only once this block is left
        fitting = 0
        if self._processes.world == 1:  # the run has ended, so its network may be tried out
            halves = (len(y) >> power for power in range(1, len(y).bit_length() - 1))
            fitting = next((n for n in halves if self._fits(x[:n], y[:n], phase, epoch)), 0)
        raise TrainingError(
            f"A step on {len(y)} images does not fit into the memory of {self._device}.",
            f"A step on {fitting} does: --set train.batch_size={fitting}, and scale the learning rates to match."
            if fitting
            else "Lower train.batch_size, or the images' size.",
        )

    def _fits(self, x: Tensor, y: Tensor, phase: Phase, epoch: int) -> bool:
        with suppress(torch.OutOfMemoryError):
            self._trainer.step(x, y, phase, epoch)
            return True
        return False

    def _end(self, epoch: int, total: EpochSums, rates: dict[str, float]) -> None:
        """Records an epoch's metrics, keeps its network if it is the best on held-out images, and saves the state."""
        train, model, processes = self._recipe.train, self._trainer.model, self._processes
        order = torch.arange(min(LOOK_AT, train.batch_size, len(self._images)))
        x, _ = next(self._images.batches(len(order), order=order))
        summary = summarize_epoch(epoch, total, model, x.to(self._device), rates)
        asked = (epoch + 1) % train.held_out_every == 0 or epoch == train.epochs - 1
        if self._apart is not None and asked and processes.first:
            batch_size = -(-train.batch_size // processes.world)
            summary["held_out"] = held_out.classify(model, self._apart, self._recipe, epoch, batch_size)
        self._history.append(processes.agree(summary))
        if processes.first:
            with self._resumable():
                if held_out.best_epoch(self._history) == epoch:
                    self._write_model(self._folder.best, epoch + 1)
                self._folder.write_metrics(self._history)
        if self._events is not None:
            self._events.write(summary)
        self.save(Position(epoch + 1, 0, EpochSums()))

    def _obey(self, requests: StopRequests) -> None:
        """Stops if any process was asked to; the state has been saved by then."""
        (stop,) = self._processes.any(requests.signal is not None, device=self._device)
        if stop:
            self._processes.gather(None)  # the first one is done with it
            requests.obey()
            raise KeyboardInterrupt  # another process was asked

    def _tell(self, epoch: int, step: int, phase: Phase, result: StepResult, last: bool) -> None:
        if self._on_step is None:
            return
        epochs = self._recipe.train.epochs
        self._on_step(
            Progress(
                epoch,
                epochs,
                step,
                self._steps,
                phase.name,
                self._clock.images_per_second,
                self._clock.seconds_per_step * (self._steps * (epochs - epoch) - step - 1),
                result.clean_loss,
                result.adversarial_loss,
                self._history[-1] if last else None,
            )
        )

    def _networks(self) -> list[Perturbed]:
        average = self._trainer.average
        return [self._trainer.model, *([] if average is None else [average.network])]

    @contextmanager
    def _resumable(self) -> Iterator[None]:
        """Adds to an error of writing a file how to resume once it can be written."""
        try:
            yield
        except PerturbifyError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise TrainingError(
                error.message, f"The last state is kept. Free some space, then resume: {self._folder.how_to_resume}"
            ) from error

    def _write_results(self, *, trained: bool) -> None:
        """Writes the model, its card and its average; where no step was left to train, only those that are missing.

        The model's file may already hold the figures of a check.
        """
        folder, epochs, average = self._folder, self._recipe.train.epochs, self._trainer.average
        if trained or not owned.is_ours(folder.model):
            self._write_model(folder.model, epochs)
        if trained or not os.path.lexists(folder.card):
            write_own(folder.card, signed(model_card(checkpoint.read_header(folder.model))))
        if average is not None and (trained or not owned.is_ours(folder.average)):
            self._write_model(folder.average, epochs, average.network)

    def _write_model(self, path: Path, epochs: int, network: Perturbed | None = None) -> None:
        header = self._header(Position(epochs, 0, EpochSums()))
        about = {k: getattr(header, k) for k in ("classes", "method", "recipe", "trained")}
        if os.path.lexists(path) and not owned.is_ours(path):
            aside = set_aside(path)
            warnings.warn(f"{path} was not the run's: it is kept as {aside.name}.", stacklevel=2)
        checkpoint.save(network or self._trainer.model, path, overwrite=True, **about)

    def _header(self, position: Position) -> Header:
        # A path on the trainer's machine is useless to others: the file keeps the dataset's name only.
        recipe = replace(self._recipe, data=replace(self._recipe.data, name=self._data.name, root=None))
        return replace(
            checkpoint.describe(self._trainer.model),
            classes=list(self._data.classes),
            method=self._trainer.method.name,
            recipe=recipes.to_toml(recipe),
            trained={"epochs": position.epoch, "steps_into_next": position.step},
        )

    def _diverged(self, epoch: int, step: int, what: str) -> Diverged:
        kept = state.read_last(self._folder).position
        return Diverged(
            f"Training diverged in epoch {epoch}, step {step}: {what} is no longer finite. "
            f"The last good state (epoch {kept.epoch}, step {kept.step}) is kept in {self._folder.state}.",
            f"Start again with a lower learning rate, such as --set optimizer.lr={self._recipe.optimizer.lr / 10:g}.",
        )


def _steps_per_epoch(images: int, batch_size: int, world: int) -> int:
    # A last batch of one image per process is skipped: batch norm has no variance over it.
    full, rest = divmod(images, batch_size)
    least = min(batch_size, images)
    if world > 1 and least < 2 * world:
        raise TrainingError(
            f"A batch of {least} images cannot be divided among {world} processes: each needs two.",
            "Raise train.batch_size, or start fewer processes.",
        )
    return full + (rest >= 2 * world or full == 0)


def _kept_on_device(images: Split, device: torch.device, wish: str) -> bool:
    if device.type != "cuda" or wish != "auto":
        return wish == "on"
    free, _ = torch.cuda.mem_get_info(device)
    return images.bytes is not None and images.bytes <= free // 4
