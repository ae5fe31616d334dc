"""A run's folder: the resolved recipe, metrics, the model with its card, and the state to resume from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbify import __version__, strict_json
from perturbify import recipe as recipes
from perturbify.errors import OutputExists, PerturbifyError, TrainingError
from perturbify.files import MOST, alone, beside, is_regular, sweep, write_text
from perturbify.settings import Recipe
from perturbify.training import history, owned

_MARK = {"perturbify-run": 1}


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    path: Path

    @property
    def marker(self) -> Path:
        """The marker of a run's folder: written first, and only by a run."""
        return self.path / "perturbify-run.json"

    @property
    def recipe(self) -> Path:
        """The resolved recipe: every setting of the run, as TOML."""
        return self.path / "recipe.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line for each complete epoch; the state holds the same, and takes precedence."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The checkpoint people use."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch on the held-out images, if there are any."""
        return self.path / "best.safetensors"

    @property
    def average(self) -> Path:
        """The checkpoint of the moving average, if the recipe asks for one."""
        return self.path / "average.safetensors"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events, if the recipe asks for them."""
        return self.path / "tensorboard"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.path / "README.md"

    @property
    def report(self) -> Path:
        """The robustness report."""
        return self.path / "report.json"

    @property
    def picture(self) -> Path:
        """What ``perturbify plot`` draws."""
        return self.path / "training.png"

    @property
    def pages(self) -> tuple[Path, ...]:
        """The same report for people."""
        return self.path / "report.md", self.path / "report.html"

    @property
    def state(self) -> Path:
        """What ``--resume`` needs."""
        return self.path / "state.safetensors"

    @property
    def state_before(self) -> Path:
        """The previous state, in case the last one is damaged."""
        return self.path / "state.before.safetensors"

    @property
    def files(self) -> tuple[Path, ...]:
        """All that a run writes there, except the marker and TensorBoard's events."""
        models, pages = (self.model, self.best, self.average), (self.card, self.report, *self.pages)
        seconds = [beside(page) for page in pages]
        records = sorted(self.path.glob("records-*.jsonl"))
        return self.recipe, self.metrics, *models, *pages, *seconds, *records, self.picture, *self.states

    @property
    def states(self) -> tuple[Path, Path]:
        """The last two states."""
        return self.state, self.state_before

    @property
    def is_run(self) -> bool:
        """Whether the folder is a run's: by its marker, or for an earlier version by its recipe and its state."""
        return self._is_marked() or (self.recipe.is_file() and any(owned.is_state(path) for path in self.states))

    @property
    def how_to_resume(self) -> str:
        """The command that resumes the run."""
        return shlex.join(["perturbify", "finetune", "--resume", str(self.path)])

    @property
    def how_to_check(self) -> str:
        """The command that checks the run's model."""
        return shlex.join(["perturbify", "check", str(self.path)])

    @property
    def can_resume(self) -> bool:
        """Whether the folder holds a run with a state."""
        return self.is_run and any(path.is_file() for path in self.states)

    def check(self, *, force: bool) -> None:
        """Checks, before any long work, that a run can be written there; changes nothing.

        Args:
            force: Whether a run that is already there may be removed.

        Raises:
            OutputExists: There is something in the folder that may not be removed.
            PerturbifyError: The folder cannot be written to.
        """
        if os.path.lexists(self.path) and not self.path.is_dir():
            what = "a file" if self.path.is_file() else "not a folder"
            raise OutputExists(f"{self.path} is {what}.", "Name a folder for the run.")
        nearest = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise PerturbifyError(
                f"The folder {self.path} cannot be written to: {nearest} is "
                + ("read-only." if nearest.is_dir() else "a file."),
                "Choose another folder.",
            )
        there = self._there()
        if there and not self.is_run:
            raise OutputExists(f"The folder {self.path} is not empty and holds no run.", "Choose another folder.")
        if there - {self.marker.name, self.recipe.name} and not force:
            hint = "Choose another folder, continue its run with --resume, or pass --force to replace that run."
            if not self.can_resume:
                hint = "It cannot be resumed, as its state is gone: choose another folder, or replace it with --force."
            raise OutputExists(f"The folder {self.path} already holds a run.", hint)
        foreign = [path for path in self._in_the_way() if not owned.is_ours(path)]
        if os.path.lexists(self.marker) and not self._is_marked():
            foreign.append(self.marker)
        if foreign:
            raise OutputExists(
                f"{foreign[0]} was changed since a run wrote it, or is not a run's, so it is not removed.",
                "Move it elsewhere, or choose another folder.",
            )

    def begin(self, recipe: Recipe, *, force: bool) -> None:
        """Empties the folder of an earlier run, with ``force``, and writes the resolved recipe; call inside
        :meth:`busy`. Arguments and errors are those of :meth:`check`.
        """
        text = recipes.to_toml(recipe)
        self.check(force=force)
        self.mark()
        self._clear()
        write_text(self.recipe, text)

    def remove(self) -> None:
        """Removes a run, and its folder if nothing else is in it.

        Raises:
            OutputExists: It holds no run, or a file of the user's under the name of one of the run's.
            TrainingError: A process is using it.
        """
        self.check(force=True)
        with self.busy():
            self.check(force=True)
            self._clear()
            for path in (self.recipe, self.marker):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.path.rmdir()

    def mark(self) -> None:
        """Marks the folder as a run's, unless it is marked, or a file of the user's has that name."""
        if not os.path.lexists(self.marker):
            write_text(self.marker, json.dumps(_MARK | {"version": __version__}) + "\n")

    @property
    def checked(self) -> bool:
        """Whether the run is to be checked at its end; so it is unless its marker says otherwise."""
        return (self._mark() or {}).get("check") is not False

    def keep_checked(self, checked: bool) -> None:
        """Keeps in the marker whether the run is to be checked at its end."""
        mark = self._mark()
        if mark is not None and checked != self.checked:
            write_text(self.marker, json.dumps(mark | {"check": checked}) + "\n")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keeps other processes from writing in the folder inside a ``with`` block; a killed process releases it.

        Raises:
            TrainingError: Another process is using it.
            PerturbifyError: The folder cannot be made or written to.
        """
        busy = TrainingError(
            f"Another process is already training in {self.path}.",
            "Wait until it ends, stop it, or choose another folder.",
        )
        with alone(self.path, busy):
            yield

    def sweep(self) -> None:
        """Removes partial files that a killed process left."""
        for file in (self.marker, *self.files):
            sweep(file)

    def read_recipe(self) -> Recipe:
        """The run's recipe.

        Raises:
            TrainingError: The folder holds no run, or none that can be resumed.
            RecipeError: The recipe was changed, and has mistakes.
        """
        if not self.is_run:
            raise TrainingError(
                f"{self.path} holds no run that can be resumed.",
                "A run can be resumed once its first state is saved; give the folder it writes to.",
            )
        if not self.can_resume:
            if self._there() - {self.marker.name, self.recipe.name}:
                raise TrainingError(
                    f"{self.path} holds no run that can be resumed: its state is gone.",
                    "Start it again in another folder, or in this one with --force.",
                )
            raise TrainingError(
                f"{self.path} holds no run that can be resumed: it was stopped before its first step.",
                "Start it again with the same command; the folder can be the same.",
            )
        return self.kept_recipe()

    def kept_recipe(self) -> Recipe:
        """The recipe in its file, even if nothing else is left of the run.

        Raises:
            TrainingError: There is no such file, or it cannot be read.
            RecipeError: The recipe was changed, and has mistakes.
        """
        try:
            if not self.recipe.is_file():
                raise TrainingError(
                    f"There is no file {self.recipe}, and a run cannot be resumed without its recipe.",
                    "Put it back, or start a new run.",
                )
            with self.recipe.open(encoding="utf-8") as file:
                text = file.read(MOST)
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(
                f"{self.recipe} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'}).",
                "Put it back as it was, or start a new run.",
            ) from error
        return recipes.of_run(text, self.path.name)

    def read_metrics(self, *, before: int | None = None) -> list[dict[str, Any]]:
        """The metrics of the epochs ``before`` a given one (all by default), as far as ``metrics.jsonl`` has them."""
        epochs, _ = history.read(self.metrics)
        return [e for e in epochs if before is None or e["epoch"] < before]

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        """Writes the metrics of all epochs atomically: a killed run leaves no half line."""
        history.write(self.metrics, epochs)

    def _clear(self) -> None:
        """Removes the files that :meth:`check` found to be the run's own, except the recipe, which is replaced."""
        self.sweep()
        path = self.path
        try:
            for path in self._in_the_way():
                if path != self.recipe:
                    path.unlink()
        except OSError as error:
            raise PerturbifyError(f"{path} cannot be removed: {error.strerror}.", "Choose another folder.") from error
        with suppress(OSError):  # there is none, or something else is in it
            self.tensorboard.rmdir()

    def _is_marked(self) -> bool:
        return self._mark() is not None

    def _mark(self) -> dict[str, Any] | None:
        """What the marker says; None where there is none of ours."""
        if not is_regular(self.marker, MOST):
            return None
        with suppress(OSError, ValueError):
            mark = strict_json.loads(self.marker.read_text(encoding="utf-8"))
            return mark if isinstance(mark, dict) and mark.items() >= _MARK.items() else None
        return None

    def _there(self) -> set[str]:
        """Names of what is in the folder, except temporary files of running or killed processes."""
        if not self.path.is_dir():
            return set()
        try:
            names = {path.name for path in self.path.iterdir()}
        except OSError as error:
            raise PerturbifyError(
                f"The folder {self.path} cannot be read: {error.strerror}.", "Choose another folder."
            ) from error
        return {name for name in names if not owned.is_passing(name)}

    def _in_the_way(self) -> list[Path]:
        """What a run before has left, or others under the same names."""
        paths = [path for path in self.files if os.path.lexists(path)]
        return paths + ([] if self.tensorboard.is_symlink() else sorted(self.tensorboard.glob("events.out.tfevents.*")))
