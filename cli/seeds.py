"""Runs that differ only in their seed: what ``perturbify finetune --seeds`` does, saves and prints."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from perturbify import strict_json
from perturbify.cli import interrupts, runs
from perturbify.cli.console import Console
from perturbify.cli.runs import How
from perturbify.escape import terminal
from perturbify.text import counted, percent, table

if TYPE_CHECKING:
    from torch import nn

    from perturbify.checks import Report
    from perturbify.checks.runs import Spread
    from perturbify.data import Data
    from perturbify.ranks import Ranks
    from perturbify.settings import Recipe
    from perturbify.training.folder import RunFolder

WORST_FIRST = (1, 3, 4, 0)
"""Exit statuses, the worst first."""
_ANOTHER = "Choose another folder with -o, or pass --force to replace the runs there."


@dataclass(frozen=True)
class Done:
    """One run of several.

    Attributes:
        seed: Its seed.
        folder: Its folder.
        metrics: One entry an epoch.
        report: Its check; None if there is none.
        error: Why it has no model; None if it has one.
    """

    seed: int
    folder: RunFolder
    metrics: list[dict[str, Any]]
    report: Report | None = None
    error: str | None = None

    @property
    def status(self) -> int:
        """Its exit status."""
        return 1 if self.error is not None else 0 if self.report is None else self.report.status


@dataclass(frozen=True)
class Several:
    """Runs that differ only in their seed.

    Attributes:
        base: The folder that holds theirs.
        seeds: Their seeds; at least one.
        recipe: The recipe of the first, as saved in its folder.
        how: The options besides the recipe.
        start: What they start from, as :func:`beginning` returns it.
    """

    base: Path
    seeds: tuple[int, ...]
    recipe: Recipe
    how: How
    start: str

    @property
    def notes(self) -> Path:
        """What each run started from, by seed; the recipe does not say that."""
        return self.base / "perturbify-seeds.json"

    def note(self, seed: int) -> None:
        """Saves what a run starts from."""
        from perturbify.files import write_text

        noted = {**_read(self.notes), str(seed): self.start}
        write_text(self.notes, json.dumps(noted, indent=1) + "\n")

    def folder(self, seed: int) -> RunFolder:
        """The folder of one run."""
        from perturbify.training.folder import RunFolder

        return RunFolder(self.base / f"seed-{seed}")

    def look(self) -> None:
        """Makes sure, before any long work, that every run can be written; changes nothing.

        Raises:
            OutputExists: A folder holds another recipe's run, or something else; or the base is a run itself.
        """
        from perturbify.errors import OutputExists
        from perturbify.training.folder import RunFolder

        if RunFolder(self.base).is_run:
            raise OutputExists(f"{self.base} is a run itself.", "Choose another folder for runs of several seeds.")
        for seed in self.seeds:
            if self.how.force:
                self.folder(seed).check(force=True)
            else:
                self.standing(seed)

    def standing(self, seed: int) -> Literal["none", "begun", "finished"]:
        """How far a run has got; with ``force`` it starts over.

        Raises:
            OutputExists: Its folder holds another recipe's run, or something else.
        """
        if self.how.force:
            return "none"
        began = _read(self.notes).get(str(seed), self.start)
        other = None if began == self.start else f"{began}, but here {self.start}"
        return standing(self.folder(seed), replace(self.recipe, seed=seed), other, checked=self.how.checked)


def beginning(model: nn.Module, data: Data, *, file: bool) -> str:
    """What a run starts from, in words: a FILE's digest, or another network's source of weights; and the images."""
    from perturbify import zoo
    from perturbify.checks.intake import digest_of_network

    if file:
        weights = f"a FILE of digest {digest_of_network(model)}"
    else:
        spec = zoo.describe(model)
        weights = f"weights {'unknown' if spec is None else spec.weights}"
    return f"{weights}, images of digest {data.fingerprint['digest']}"


def standing(
    folder: RunFolder, recipe: Recipe, other_start: str | None = None, *, checked: bool
) -> Literal["none", "begun", "finished"]:
    """How far a run has got; the folder must hold the run of this recipe.

    Args:
        folder: The run's folder.
        recipe: The recipe as resolved for a new run.
        other_start: How the run started, if it was not as this one does.
        checked: Whether a finished run has a report.

    Raises:
        OutputExists: The folder holds another recipe's run, or something else.
    """
    from perturbify.errors import OutputExists

    if not (folder.is_run and (folder.can_resume or folder.model.is_file())):
        folder.check(force=False)
        return "none"
    before, now = (_settings(r) for r in (folder.kept_recipe(), recipe))
    changed = [key for key in _in_order(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if other_start is not None and set(changed) <= {"data.mean", "data.std"}:  # which follow from the start
        raise OutputExists(f"{folder.path} holds a run with another start: {other_start}.", _ANOTHER)
    if changed:
        raise OutputExists(
            f"{folder.path} holds a run of another recipe: {changed[0]} is {before.get(changed[0])!r} there, but "
            f"{now.get(changed[0])!r} here.",
            _ANOTHER,
        )
    if folder.model.is_file() and (not checked or _report(folder) is not None):
        return "finished"
    return "begun"


def run(
    console: Console,
    several: Several,
    first: tuple[Recipe, Data, nn.Module],
    set_up: Callable[[int], tuple[Recipe, Data, nn.Module]],
    processes: Ranks,
) -> None:
    """Runs them one after the other, each resumed where it stopped, and prints a summary.

    One that diverges does not stop the others.

    Args:
        console: Where to print.
        several: The runs.
        first: Recipe, data and network of the first run.
        set_up: Returns those of another seed.
        processes: The processes.
    """
    from perturbify.errors import Diverged

    base, how = several.base, several.how
    said = f"Finished work is saved in {base}: the same command resumes" + (
        ", but without --force." if how.force else "."
    )
    done: list[Done] = []
    with interrupts.safe(said):
        for number, seed in enumerate(several.seeds, 1):
            folder = several.folder(seed)
            how_far = processes.agree(several.standing(seed) if processes.first else "none")
            line = f"seed {seed}, run {number} of {len(several.seeds)}: {folder.path}"
            if how_far == "finished":
                console.log(f"{line}, kept as it is")
                done.append(finished(seed, folder, checked=how.checked))
                continue
            console.log(line + (", resumed" if how_far == "begun" else ""))
            recipe, data, model = first if number == 1 else set_up(seed)
            alone = folder.busy() if processes.first else nullcontext()
            try:
                # Locked from the first step to the last page of the report.
                with alone:
                    if processes.first and how_far == "none":
                        several.note(seed)
                    result = runs.train(console, recipe, data, model, folder, how, begun=how_far == "begun")
                    report = runs.check(console, result, recipe, data) if how.checked else None
                    if report is not None and processes.first:
                        runs.keep(report, folder)
            except Diverged as error:
                console.log(f"seed {seed}: {error.message}")
                done.append(Done(seed, folder, [], error=error.message))
            else:
                done.append(Done(seed, folder, result.metrics, report))
    console.result(to_text(base, done, console.width), to_dict(base, done))
    if status(done) and console.first:  # torchrun would kill the first process while it writes
        click.get_current_context().exit(status(done))


def finished(seed: int, folder: RunFolder, *, checked: bool) -> Done:
    """A finished run, read from its folder."""
    from perturbify.training import history

    return Done(seed, folder, history.read(folder.metrics)[0], _report(folder) if checked else None)


def status(done: Sequence[Done]) -> int:
    """The worst exit status of all runs."""
    return min((d.status for d in done), key=WORST_FIRST.index)


def to_text(base: Path, done: Sequence[Done], width: int | None = None) -> str:
    """Figures over the runs, a line for each run, and their folder; ``width`` as for a table."""
    from perturbify.checks.render.comparison_columns import spread

    reports = [d.report for d in done if d.report is not None]
    lines = []
    if reports:
        spreads = [(n, spread(s), f"{percent(s.low)} to {percent(s.high)}") for n, s in _figures(reports).items()]
        over = f"accuracy in percent, over {counted(len(reports), 'training run')}; {reports[0].n} test images of "
        lines += [terminal(over + reports[0].dataset), "", table([("", "mean ± sd", "range"), *spreads], width), ""]
    rows = [("seed", "clean", "worst case", "verdict", "model")]
    for d in done:
        figures = ("–", "–", "not checked")
        if d.report is not None:
            figures = (percent(d.report.clean.accuracy), percent(d.report.headline.accuracy), d.report.verdict)
        if d.error is not None:
            figures = ("–", "–", "no model")
        rows.append((str(d.seed), *figures, "–" if d.error is not None else str(d.folder.model)))
    lines += [
        table(rows, width, ("model",)),
        "",
        *(terminal(f"seed {d.seed}: {d.error}") for d in done if d.error is not None),
    ]
    return "\n".join([*lines, terminal(f"runs: {base}")])


def to_dict(base: Path, done: Sequence[Done]) -> dict[str, Any]:
    """The same as JSON values."""
    reports = [d.report for d in done if d.report is not None]
    return {
        "folder": str(base),
        "seeds": [d.seed for d in done],
        "figures": {name: asdict(s) for name, s in _figures(reports).items()},
        "runs": [{"seed": d.seed, "error": d.error} | runs.values(d.folder, d.metrics, d.report) for d in done],
    }


def _figures(reports: Sequence[Report]) -> dict[str, Spread]:
    from perturbify.checks.runs import over_runs

    return over_runs(reports) if reports else {}


def _read(notes: Path) -> dict[str, str]:
    """What runs started from, by seed, as far as recorded."""
    try:
        noted = strict_json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {seed: str(start) for seed, start in noted.items()} if isinstance(noted, dict) else {}


def _report(folder: RunFolder) -> Report | None:
    """The report of a run's check; None if there is no readable one."""
    from perturbify.checks import Report
    from perturbify.errors import CheckError

    try:
        return Report.read(folder.report)
    except CheckError:
        return None


def _in_order(keys: Iterable[str]) -> list[str]:
    """Keys in order of cause: those that determine others, such as the image size, come first."""
    return sorted(keys, key=lambda key: (key not in ("model", "method", "data.name"), key))


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting of a recipe by its dotted key."""
    from perturbify import recipe as recipes

    found: dict[str, Any] = {}
    for key, value in tomllib.loads(recipes.to_toml(recipe)).items():
        nested = isinstance(value, dict) and key != "model_args"
        found |= {f"{key}.{k}": v for k, v in value.items()} if nested else {key: value}
    return found
