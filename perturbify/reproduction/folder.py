"""A reproduction's folder: its settings, a run's folder for each job, and the table so far."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from perturbify import recipe as recipes
from perturbify import strict_json
from perturbify.data import Data
from perturbify.errors import OutputExists, PerturbifyError
from perturbify.files import LOCK, alone, is_regular, is_signed, write_text
from perturbify.reproduction.job import Job, Reproduction
from perturbify.reproduction.paper import TABLES
from perturbify.training.folder import RunFolder
from perturbify.training.owned import is_ours
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
        """What is reproduced here: its settings and recipes."""
        return self.path / NOTES

    def run(self, job: Job) -> RunFolder:
        """The folder of a job's run."""
        return RunFolder(self.path / job.name)

    def table(self, name: str, kind: str) -> Path:
        """The table so far, as ``json``, ``md`` or, for a curve, ``png``."""
        return self.path / f"{name}.{kind}"

    def is_finished(self, job: Job) -> bool:
        """Whether a job is trained and checked: its report's pages are written last."""
        run = self.run(job)
        return all(file.is_file() for file in (run.model, run.report, *run.pages))

    def busy(self) -> AbstractContextManager[None]:
        """Keeps other reproductions out of the folder inside a ``with`` block.

        Raises:
            OutputExists: It holds something else, and nothing is written there.
            PerturbifyError: Another process is using it, or the folder cannot be made or written to.
        """
        self._check()
        return alone(
            self.path,
            PerturbifyError(f"Another process is already reproducing in {self.path}.", "Wait until it ends."),
        )

    def open(self, about: dict[str, Any], *, force: bool) -> None:
        """Checks that the folder is empty, or holds what the same command began; call inside :meth:`busy`.

        Args:
            about: What is reproduced, from :func:`describe`.
            force: Whether another reproduction, with its results, may be removed.

        Raises:
            OutputExists: There is something else in the folder.
            PerturbifyError: The folder cannot be written to.
        """
        self._check()
        if self.notes.is_file():
            there = self._read()
            if there == about and not force:
                return
            if not force and _began_earlier(there, about):
                self._note(about)
                return
            if not force:
                raise OutputExists(
                    f"The folder {self.path} holds a reproduction with {_changes(there, about)}.",
                    "Repeat the command that began it, choose another folder with -o, or replace it with --force.",
                )
            self._clear(there)
        self._note(about)

    def _note(self, about: dict[str, Any]) -> None:
        write_text(self.notes, json.dumps(about, indent=2, ensure_ascii=False) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            there = dict(strict_json.loads(self.notes.read_text(encoding="utf-8")))
            names = dict(there["recipes"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise PerturbifyError(f"{self.notes} is damaged ({error}).", "Choose another folder with -o.") from error
        strange = next((n for n in names if n in ("", ".", "..") or {"/", "\\", "\0"} & set(n)), None)
        if strange is not None or there.get("table") not in TABLES:
            raise PerturbifyError(f"{self.notes} is not a reproduction's.", "Choose another folder with -o.")
        return there

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputExists(f"{self.path} is a file.", "Name a folder for the reproduction.")
        if self.path.is_dir() and not self.notes.is_file() and any(p.name != LOCK for p in self.path.iterdir()):
            raise OutputExists(
                f"The folder {self.path} is not empty and holds no reproduction.", "Choose another folder."
            )

    def _clear(self, there: dict[str, Any]) -> None:
        """Removes the runs and tables of the reproduction that is there, and nothing else."""
        tables = {self.table(there["table"], "json"): is_table, self.table(there["table"], "md"): is_signed}
        tables |= {self.table(there["table"], "png"): is_ours}
        for path, ours in tables.items():
            if os.path.lexists(path) and not ours(path):
                raise OutputExists(
                    f"{path} was changed since a reproduction wrote it, so it is not removed.", "Move it elsewhere."
                )
        runs = [run for run in (RunFolder(self.path / name) for name in there["recipes"]) if run.is_run]
        for run in runs:
            if run.path.is_symlink():
                raise OutputExists(f"{run.path} links elsewhere, so nothing is removed there.", "Remove the link.")
            run.check(force=True)
        for run in runs:
            run.remove()
        for path in tables:
            path.unlink(missing_ok=True)


def is_table(path: Path) -> bool:
    """Whether a file is a table of a reproduction as JSON."""
    try:
        values = strict_json.loads(path.read_text(encoding="utf-8")) if is_regular(path) else None
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() >= {"schema", "table", "complete", "rows"}


def describe(reproduction: Reproduction, work: Sequence[tuple[Job, Data]]) -> dict[str, Any]:
    """What is reproduced, as JSON values that identify the reproduction.

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
        "digests": list(dict.fromkeys(str(d.fingerprint["digest"]) for _, d in work)),
        "images": reproduction.images or "all",
        "weights": {network: read_weights(file).label for network, file in reproduction.weights.items()},
        "seeds": list(reproduction.seeds),
        "recipes": {job.name: _anywhere(job, data) for job, data in work},
    }


def _began_earlier(there: dict[str, Any], about: dict[str, Any]) -> bool:
    """Whether an earlier version's notes are of the same command.

    It had one seed, fewer of the paper's networks and methods, and, before that, no digests of the images; its recipes
    may have had other settings, which the runs that it began keep.
    """
    if "seeds" in there:
        return False
    then = {"digests": about["digests"], **there, "seeds": [there.get("seed")], "recipes": about["recipes"]}
    then.pop("seed", None)
    fewer = all(set(then.get(key, ())) <= set(about[key]) for key in ("networks", "methods"))
    return fewer and then | {key: about[key] for key in ("networks", "methods")} == about


def _anywhere(job: Job, data: Data) -> str:
    """A job's recipe, without the location of the images on this machine."""
    assert job.recipe is not None
    return recipes.to_toml(replace(job.recipe, data=replace(job.recipe.data, name=data.name, root=None)))


def _changes(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Which settings differ; recipes, which mostly follow from the others, only if nothing else does."""
    if "seed" in there:
        there = there | {"seeds": [there["seed"]]}
    changed = [key for key in here if key != "recipes" and there.get(key) != here[key]]
    said = [
        f"{'other' if key.endswith('s') else 'another'} {key} "
        f"({_shown(there.get(key))} there, {_shown(here[key])} here)"
        for key in changed
    ]
    return " and ".join(said) or "other recipes under the same names"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key} from {what}" for key, what in value.items()]
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "none" if value in (None, "") else str(value)
