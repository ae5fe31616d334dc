"""A reproduction's folder: what it is of, a run's folder for each job, and the table so far."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perturbify import recipe as recipes
from perturbify.data import Data
from perturbify.errors import OutputExists, PerturbifyError
from perturbify.files import write_text
from perturbify.reproduction.job import Job, Reproduction
from perturbify.training.folder import RunFolder
from perturbify.zoo.weights import read_weights

NOTES = "reproduction.json"


class ReproductionFolder:
    """Paths and notes of one reproduction.

    Args:
        path: The folder; it may be absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def notes(self) -> Path:
        """What is reproduced here, by which settings and recipes."""
        return self.path / NOTES

    def run(self, job: Job) -> RunFolder:
        """The folder of a job's run."""
        return RunFolder(self.path / job.name)

    def table(self, name: str, kind: str) -> Path:
        """The table so far, as ``json`` or ``md``."""
        return self.path / f"{name}.{kind}"

    def is_finished(self, job: Job) -> bool:
        """Whether a job is trained and checked: its report's pages are written last."""
        run = self.run(job)
        return all(file.is_file() for file in (run.model, run.report, *run.pages))

    def open(self, about: dict[str, Any], *, force: bool) -> None:
        """Makes the folder, or makes sure that it holds what the same command began.

        Args:
            about: What is reproduced, from :func:`describe`.
            force: Whether another reproduction, and what it has done, may be removed.

        Raises:
            OutputExists: There is something else in the folder.
            PerturbifyError: The folder cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputExists(f"{self.path} is a file.", "Name a folder for the reproduction.")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.notes.is_file():
            raise OutputExists(f"The folder {self.path} is not empty, and it holds no reproduction.", "Choose another.")
        if self.notes.is_file():
            there = self._read()
            if there == about and not force:
                return
            if not force:
                raise OutputExists(
                    f"The folder {self.path} holds a reproduction with {_changes(there, about)}.",
                    "Give the command that it began with, choose another folder with -o, or replace it with --force.",
                )
            self._clear(there)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PerturbifyError(
                f"The folder {self.path} cannot be made: {error.strerror}.", "Choose another one."
            ) from error
        write_text(self.notes, json.dumps(about, indent=2, ensure_ascii=False) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.notes.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise PerturbifyError(f"{self.notes} is damaged ({error}).", "Choose another folder with -o.") from error

    def _clear(self, there: dict[str, Any]) -> None:
        """Removes the runs and tables of the reproduction that is there, and nothing else."""
        for name in there.get("recipes", {}):
            if RunFolder(self.path / name).recipe.is_file():
                shutil.rmtree(self.path / name)
        for kind in ("json", "md"):
            self.table(str(there.get("table")), kind).unlink(missing_ok=True)


def describe(reproduction: Reproduction, work: Sequence[tuple[Job, Data]]) -> dict[str, Any]:
    """What a reproduction is of, as JSON values: by these it is known again.

    Args:
        reproduction: What was asked for.
        work: The jobs that can be run, each with its images.

    Raises:
        WeightsError: A weights file cannot be read.
    """
    return {
        "table": reproduction.table,
        "budget": reproduction.epochs or "paper",
        "equal schedule": reproduction.equal_schedule,
        "networks": list(reproduction.networks),
        "methods": list(reproduction.methods),
        "data": list(dict.fromkeys(f"{d.name} ({len(d.train)} training, {len(d.test)} test images)" for _, d in work)),
        "images": reproduction.images or "all",
        "weights": {network: read_weights(file).label for network, file in reproduction.weights.items()},
        "seed": reproduction.seed,
        "recipes": {job.name: _anywhere(job, data) for job, data in work},
    }


def _anywhere(job: Job, data: Data) -> str:
    """A job's recipe, without where the images lie on this machine."""
    assert job.recipe is not None
    return recipes.to_toml(replace(job.recipe, data=replace(job.recipe.data, name=data.name, root=None)))


def _changes(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Which settings differ; recipes, which mostly follow from the others, only where nothing else does."""
    changed = [key for key in here if key != "recipes" and there.get(key) != here[key]]
    said = [f"another {key} ({_shown(there.get(key))} there, {_shown(here[key])} here)" for key in changed]
    return " and ".join(said) or "other recipes under the same names"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key} from {what}" for key, what in value.items()]
    if isinstance(value, list):
        value = ", ".join(value)
    return "none" if value in (None, "") else str(value)
