"""The paper's training in slices; for usage see ``python -m benchmarks.gpu --train MINUTES``.

For a machine that is available for minutes at a time. A slice resumes where the last one stopped: first Learn2Perturb,
then plain PGD training with the same recipe, each followed by its check. Everything that the next slice needs is in one
folder: the run folders, the records of the checks, and ``slices.jsonl``, with a line per slice and its machine.
"""

from __future__ import annotations

import datetime
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import perturbify
from perturbify import checkpoint, zoo
from perturbify.checks import CheckPlan, Estimate, Report
from perturbify.checks import Progress as CheckProgress
from perturbify.checks.render.words import called, verdict
from perturbify.cli import reports
from perturbify.data import Data
from perturbify.errors import TrainingError
from perturbify.files import write_text
from perturbify.settings import Recipe
from perturbify.text import duration, percent, table
from perturbify.training import state
from perturbify.training.folder import RunFolder
from perturbify.training.metrics import Progress
from perturbify.training.seeds import fresh_weights

METHODS: tuple[str, ...] = ("learn2perturb", "vanilla")

# Share of the time reserved for the current step or batch, and for saving.
KEPT_BACK = 0.02

# Settings that both runs, and all slices, must share.
COMMON = ("seed", "train", "optimizer", "theta_optimizer", "attack")


class TimeIsUp(BaseException):
    """A check was interrupted; no ``except Exception`` may catch it."""


@dataclass(frozen=True)
class Job:
    """Both runs.

    Attributes:
        recipe: Recipe of both, except for the method.
        data: The images.
        plan: The check of each.
        runs: The folder that holds everything.
        device: Where it runs.
    """

    recipe: Recipe
    data: Data
    plan: CheckPlan
    runs: Path
    device: torch.device

    def folder(self, method: str) -> RunFolder:
        """The folder of one of the runs."""
        return RunFolder(self.runs / method)

    @property
    def images(self) -> int:
        """Training images per epoch."""
        settings = self.recipe.data
        return min(len(self.data.train), settings.train_images or len(self.data.train)) - (settings.held_out or 0)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(is_checked(self.folder(method)) for method in METHODS)


@dataclass(frozen=True)
class Standing:
    """Progress of a run.


    Attributes:
        method: Which of the runs.
        state: ``"not begun"``, ``"in training"``, ``"trained"`` or ``"checked"``.
        epoch: Completed epochs.
        images: Images seen in the current one.
        images_per_second: Over the last complete epoch and the current one; None if unknown.
    """

    method: str
    state: str
    epoch: int = 0
    images: int = 0
    images_per_second: float | None = None


def evaluate(job: Job, deadline: float) -> None:
    """Does what is left until the time is up; the folder holds what was done, however it ends.

    Args:
        job: The runs.
        deadline: By ``time.monotonic()``.

    Raises:
        KeyboardInterrupt, SystemExit: Somebody else asked it to stop.
    """
    try:
        for method in METHODS:
            folder = job.folder(method)
            if is_checked(folder):
                continue
            if not folder.model.is_file():
                _train(job, method, deadline)
            _check(job, method, deadline)
            if time.monotonic() >= deadline:
                break
    except TimeIsUp:
        pass
    except SystemExit:
        if time.monotonic() < deadline:
            raise


def standing(job: Job, method: str) -> Standing:
    """The progress of a run, from its folder."""
    folder = job.folder(method)
    if not _is_begun(folder):
        return Standing(method, "not begun")
    at = state.read_last(folder).position
    last = [(epoch["images"], epoch["seconds"]) for epoch in folder.read_metrics(before=at.epoch)[-1:]]
    images, seconds = (sum(column) for column in zip(*last, (at.sums.images, at.sums.seconds), strict=True))
    stage = "checked" if is_checked(folder) else "trained" if folder.model.is_file() else "in training"
    return Standing(method, stage, at.epoch, at.sums.images, images / seconds if seconds else None)


def is_checked(folder: RunFolder) -> bool:
    """Whether the last file of a check exists."""
    return folder.pages[-1].is_file()


def told(job: Job, runs: list[Standing]) -> str:
    """What is done and what is left, one line per run and one for both."""
    epochs = job.recipe.train.epochs
    lines, left = [], 0.0
    known = [s.images_per_second for s in runs if s.images_per_second]
    for run in runs:
        rate = run.images_per_second or (known[0] if known else None)
        text = f"{run.method}: {run.state}"
        if run.state == "in training":
            text += f", {run.epoch} of {epochs} epochs and {run.images} of {job.images} images of the next"
        if run.images_per_second:
            text += f", {run.images_per_second:.0f} images a second"
        if rate and run.state in ("not begun", "in training"):
            seconds = (epochs * job.images - run.epoch * job.images - run.images) / rate
            left += seconds
            text += f", about {seconds / 60:.1f} minutes left"
        lines.append(text)
    if known and not job.done:
        lines.append(f"left in all: about {left / 60:.1f} minutes of training, and the checks")
    return "\n".join(lines)


def result(job: Job, about: dict[str, Any]) -> dict[str, Any]:
    """Both finished runs, as one JSON value.

    Args:
        job: The runs.
        about: The machine of the last slice; the others are in ``slices``.
    """
    found = {}
    for method in METHODS:
        folder = job.folder(method)
        metrics = folder.read_metrics()
        report = Report.read(folder.report).to_dict()
        seconds = sum(epoch["seconds"] for epoch in metrics)
        found[method] = {
            "recipe": folder.recipe.read_text(encoding="utf-8"),
            "seconds": round(seconds, 1),
            "images a second": round(sum(epoch["images"] for epoch in metrics) / seconds, 1),
            "last epoch": metrics[-1],
            "report": {key: value for key, value in report.items() if key != "examples"},
        }
    slices = (job.runs / "slices.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        **about,
        "data": {"name": job.data.name, "training images": job.images, "test images": len(job.data.test)},
        "runs": found,
        "slices": [json.loads(line) for line in slices],
    }


def compared(ours: Report, theirs: Report) -> str:
    """The verdicts and figures of both side by side; attacks are matched by the first report's ids."""
    lines = [("attack", "n", "draws", *METHODS)]
    worst = [report.headline.worst for report in (ours, theirs)]
    lines.append(("worst case", str(ours.n), str(ours.clean.draws), *(percent(w.value, w.interval) for w in worst)))
    for row in ours.results:
        other = theirs.result(row.id)
        lines.append(
            (
                called(row),
                str(row.n),
                str(row.draws),
                percent(row.accuracy, row.interval),
                "–" if other is None else percent(other.accuracy, other.interval),
            )
        )
    return f"verdicts: {ours.verdict}, {theirs.verdict}\n{table(lines)}"


def run_slice(job: Job, began: float, minutes: float, output: Path, about: dict[str, Any]) -> None:
    """Runs one slice, prints its summary, and writes the result once both runs are checked.

    Args:
        job: The runs.
        began: Start, by ``time.monotonic()``.
        minutes: Time limit from then on.
        output: JSON file of the result.
        about: The machine.
    """
    job.runs.mkdir(parents=True, exist_ok=True)
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if not job.done:
        try:
            evaluate(job, began + 60 * minutes * (1 - KEPT_BACK))
        finally:
            runs = [standing(job, method) for method in METHODS]
            line = {"began": today, "seconds": round(time.monotonic() - began, 1), **about}
            line["runs"] = {run.method: f"{run.state}, {run.epoch} epochs, {run.images} images" for run in runs}
            with (job.runs / "slices.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(told(job, runs), flush=True)
    if job.done:
        print(compared(*(Report.read(job.folder(method).report) for method in METHODS)), flush=True)
        write_text(output, json.dumps(result(job, about), indent=1, ensure_ascii=False) + "\n")
        print(f"written: {output}", flush=True)


def _is_begun(folder: RunFolder) -> bool:
    return folder.state.is_file() or folder.state_before.is_file()


def _train(job: Job, method: str, deadline: float) -> None:
    """Trains to the end, or until the time is up; then saves the state and raises SystemExit."""

    def on_step(progress: Progress) -> None:
        if progress.epoch_summary is not None:
            accuracy = progress.epoch_summary["adversarial_accuracy"]
            print(
                f"{method}: epoch {progress.epoch + 1} of {progress.epochs}, {progress.images_per_second:.0f} images a "
                f"second, {'not attacked' if accuracy is None else f'{percent(accuracy)}% of attacked images right'}, "
                f"about {progress.seconds_left / 60:.1f} minutes left",
                flush=True,
            )
        if time.monotonic() >= deadline:
            signal.raise_signal(signal.SIGTERM)  # the run notes it, saves its state after the next step, and ends

    recipe, folder = replace(job.recipe, method=method), job.folder(method)
    print(f"{method}: training in {folder.path}", flush=True)
    if _is_begun(folder):
        before = folder.read_recipe()
        other = [name for name in COMMON if getattr(before, name) != getattr(recipe, name)]
        if other:
            raise TrainingError(
                f"The run in {folder.path} began with other settings: {', '.join(other)}.",
                "Resume with the same ones, or choose another folder.",
            )
        perturbify.resume(folder.path, data=job.data, device=str(job.device), on_step=on_step)
    else:
        with fresh_weights(recipe.seed):
            model = zoo.create(recipe.model, num_classes=len(job.data.classes), **recipe.model_args)
        # A run without a state was killed before its first step.
        perturbify.finetune(
            model, recipe, folder.path, data=job.data, device=str(job.device), force=True, on_step=on_step
        )


def _check(job: Job, method: str, deadline: float) -> None:
    """Checks a finished run, reusing what earlier slices recorded."""
    folder = job.folder(method)

    def on_start(estimate: Estimate) -> None:
        print(f"{method}: check, {len(estimate.costs)} batches, about {duration(estimate.seconds)}", flush=True)

    def on_progress(progress: CheckProgress) -> None:
        if progress.done == progress.total:
            print(f"{method}: {progress.case}: about {duration(progress.seconds_left)} left", flush=True)
        if time.monotonic() >= deadline:
            raise TimeIsUp  # the alarm may have gone off where Python drops exceptions

    model = perturbify.load(folder.model).to(job.device)
    with _until(deadline):
        # Not compiled: each slice would spend its minutes on compiling.
        report = perturbify.check(
            model,
            job.data,
            job.plan,
            name=method,
            about=checkpoint.read_header(folder.model).provenance(),
            folder=folder.path,
            on_start=on_start,
            on_progress=on_progress,
        )
    reports.embed(report, folder.model)
    reports.write(report, folder.path)
    print(f"{method}: {verdict(report)}", flush=True)


@contextmanager
def _until(deadline: float) -> Iterator[None]:
    """Interrupts the block at the deadline: a check's batches are long, and each is saved once it is done."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001))
        yield
    except Exception as error:
        if time.monotonic() < deadline:
            raise
        raise TimeIsUp from error  # compiled code calling Python may turn the alarm into its own error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
