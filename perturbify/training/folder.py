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
        """What makes the folder a run's: written first, and by nothing else than a run."""
        return self.path / "perturbify-run.json"

    @property
    def recipe(self) -> Path:
        """The resolved recipe: every setting of the run, as TOML."""
        return self.path / "recipe.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line for each epoch that is complete; the state holds the same, and has the last word."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The checkpoint people use."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch by the images that were held out, where some were."""
        return self.path / "best.safetensors"

    @property
    def average(self) -> Path:
        """The checkpoint of the moving average, where the recipe asks for one."""
        return self.path / "average.safetensors"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events, where the recipe asks for them."""
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
        """The state that was saved before that one, should that one be damaged."""
        return self.path / "state.before.safetensors"

    @property
    def files(self) -> tuple[Path, ...]:
        """All that a run writes there, but for the marker and TensorBoard's events."""
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
        """Whether the folder is a run's: by its marker; one of an earlier version by its recipe and its state."""
        return self._is_marked() or (self.recipe.is_file() and any(owned.is_state(path) for path in self.states))

    @property
    def how_to_resume(self) -> str:
        """The command that goes on with the run."""
        return shlex.join(["perturbify", "finetune", "--resume", str(self.path)])

    @property
    def can_resume(self) -> bool:
        """Whether there is a run in the folder, and a state of it."""
        return self.is_run and any(path.is_file() for path in self.states)

    def check(self, *, force: bool) -> None:
        """Makes sure, before any long work, that a run can be written there; changes nothing.

        Args:
            force: Whether a run that is there already may be removed.

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
                "Choose another one.",
            )
        there = self._there()
        if there and not self.is_run:
            raise OutputExists(f"The folder {self.path} is not empty, and it holds no run.", "Choose another one.")
        if there - {self.marker.name, self.recipe.name} and not force:
            hint = "Choose another one, continue its run with --resume, or pass --force to replace that run."
            if not self.can_resume:
                hint = "Its state is gone, so it cannot go on: choose another one, or pass --force to replace that run."
            raise OutputExists(f"The folder {self.path} holds a run already.", hint)
        foreign = [path for path in self._in_the_way() if not owned.is_ours(path)]
        if os.path.lexists(self.marker) and not self._is_marked():
            foreign.append(self.marker)
        if foreign:
            raise OutputExists(
                f"{foreign[0]} is not as a run wrote it, so it is not removed.",
                "Move it elsewhere, or choose another folder.",
            )

    def begin(self, recipe: Recipe, *, force: bool) -> None:
        """Empties the folder of a run before, if that is wanted, and writes the resolved recipe; to be called inside
        of :meth:`busy`. Arguments and errors are those of :meth:`check`.
        """
        text = recipes.to_toml(recipe)
        self.check(force=force)
        self.mark()
        self._clear()
        write_text(self.recipe, text)

    def remove(self) -> None:
        """Removes a run, and its folder if nothing else is in it.

        Raises:
            OutputExists: It holds no run, or somebody else's file under the name of one of the run's.
            TrainingError: A process is at it.
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
        """Marks the folder as a run's, unless that is done, or something of the user's has that name."""
        if not os.path.lexists(self.marker):
            write_text(self.marker, json.dumps(_MARK | {"version": __version__}) + "\n")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keeps other processes from writing in the folder inside a ``with`` block; a killed one lets go of it.

        Raises:
            TrainingError: Another process is at it.
            PerturbifyError: The folder cannot be made or written to.
        """
        busy = TrainingError(
            f"Another process is training in {self.path} already.",
            "Wait until it ends, stop it, or choose another folder.",
        )
        with alone(self.path, busy):
            yield

    def sweep(self) -> None:
        """Removes the halves of files that a killed process left."""
        for file in (self.marker, *self.files):
            sweep(file)

    def read_recipe(self) -> Recipe:
        """The run's recipe.

        Raises:
            TrainingError: There is no run in the folder, or none that could go on.
            RecipeError: The recipe was changed, and has mistakes.
        """
        if not self.is_run:
            raise TrainingError(
                f"{self.path} holds no run that could go on.",
                "A run can be resumed from its first saved state on; give the folder it writes to.",
            )
        if not self.can_resume:
            if self._there() - {self.marker.name, self.recipe.name}:
                raise TrainingError(
                    f"{self.path} holds no run that could go on: its state is gone.",
                    "Start it again in another folder, or in this one with --force.",
                )
            raise TrainingError(
                f"{self.path} holds no run that could go on: it was stopped before its first step.",
                "Start it again as you started it; the folder can be the same.",
            )
        return self.kept_recipe()

    def kept_recipe(self) -> Recipe:
        """The recipe in its file, whatever else is left of the run.

        Raises:
            TrainingError: There is no such file, or it cannot be read.
            RecipeError: The recipe was changed, and has mistakes.
        """
        try:
            if not self.recipe.is_file():
                raise TrainingError(
                    f"There is no file {self.recipe}, and a run cannot go on without its recipe.",
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
        """Writes the metrics of all epochs, in one move: a killed run leaves no half line."""
        history.write(self.metrics, epochs)

    def _clear(self) -> None:
        """Removes what :meth:`check` found to be the run's own, but for the recipe, which is replaced in one move."""
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
        if not is_regular(self.marker, MOST):
            return False
        with suppress(OSError, ValueError):
            mark = strict_json.loads(self.marker.read_text(encoding="utf-8"))
            return isinstance(mark, dict) and mark.items() >= _MARK.items()
        return False

    def _there(self) -> set[str]:
        """Names of what is in the folder, but for what processes that are at it, or were killed, leave there."""
        if not self.path.is_dir():
            return set()
        try:
            names = {path.name for path in self.path.iterdir()}
        except OSError as error:
            raise PerturbifyError(
                f"The folder {self.path} cannot be read: {error.strerror}.", "Choose another one."
            ) from error
        return {name for name in names if not owned.is_passing(name)}

    def _in_the_way(self) -> list[Path]:
        """What a run before has left, or others under the same names."""
        paths = [path for path in self.files if os.path.lexists(path)]
        return paths + ([] if self.tensorboard.is_symlink() else sorted(self.tensorboard.glob("events.out.tfevents.*")))
