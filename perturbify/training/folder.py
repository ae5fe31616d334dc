"""A run's folder: the resolved recipe, metrics, the model with its card, and the state to resume from."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbify import recipe as recipes
from perturbify.errors import OutputExists, PerturbifyError, TrainingError
from perturbify.files import sweep, write_text
from perturbify.settings import Recipe

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe: every setting of the run, as TOML."""
        return self.path / "recipe.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line for each epoch that is complete."""
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
        """All of them."""
        models = (self.model, self.best, self.average, self.card)
        return self.recipe, self.metrics, *models, self.report, *self.pages, self.picture, self.state, self.state_before

    def check(self, *, force: bool) -> None:
        """Makes sure, before any long work, that a run can be written there; changes nothing.

        Args:
            force: Whether a run that is there already may be removed.

        Raises:
            OutputExists: There is something in the folder that may not be removed.
            PerturbifyError: The folder cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputExists(f"{self.path} is a file.", "Name a folder for the run.")
        filled = self.path.is_dir() and any(self.path.iterdir())
        if filled and not self.recipe.is_file():
            raise OutputExists(f"The folder {self.path} is not empty, and it holds no run.", "Choose another one.")
        if filled and not force:
            raise OutputExists(
                f"The folder {self.path} holds a run already.",
                "Choose another one, continue its run with --resume, or pass --force to replace that run.",
            )
        nearest = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise PerturbifyError(
                f"The folder {self.path} cannot be written to: {nearest} is "
                + ("read-only." if nearest.is_dir() else "a file."),
                "Choose another one.",
            )

    def create(self, recipe: Recipe, *, force: bool) -> None:
        """Makes the folder and writes the resolved recipe; arguments and errors are those of :meth:`check`."""
        self.check(force=force)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.sweep()
            for file in self.files:
                if file != self.recipe:  # which marks the folder as a run's, and is replaced in one move
                    file.unlink(missing_ok=True)
            shutil.rmtree(self.tensorboard, ignore_errors=True)
        except OSError as error:
            raise PerturbifyError(f"The folder {self.path} cannot be written to: {error.strerror}.") from error
        write_text(self.recipe, recipes.to_toml(recipe))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keeps other processes from training in the folder inside a ``with`` block; a killed one lets go of it.

        Raises:
            TrainingError: Another process is at it.
        """
        if fcntl is None:  # Windows
            yield
            return
        with self.recipe.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):  # others: a disk that knows no locks
                    raise TrainingError(
                        f"Another process is training in {self.path} already.", "Wait until it ends, or stop it."
                    ) from error
            yield

    def sweep(self) -> None:
        """Removes the halves of files that a killed process left."""
        for file in self.files:
            sweep(file)

    def read_recipe(self) -> Recipe:
        """The run's recipe.

        Raises:
            TrainingError: There is no run in the folder.
        """
        if not self.recipe.is_file() or not (self.state.is_file() or self.state_before.is_file()):
            raise TrainingError(
                f"{self.path} holds no run that could go on.",
                "A run can be resumed from its first saved state on; give the folder it writes to.",
            )
        return recipes.from_toml(self.recipe.read_text(encoding="utf-8"), self.path.name)

    def read_metrics(self, *, before: int | None = None) -> list[dict[str, Any]]:
        """The metrics of the epochs ``before`` a given one (all by default)."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        epochs = [json.loads(line) for line in lines if line.endswith("}")]
        return [e for e in epochs if before is None or e["epoch"] < before]

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        """Writes the metrics of all epochs, in one move: a killed run leaves no half line."""
        write_text(self.metrics, "".join(json.dumps(e) + "\n" for e in epochs))
