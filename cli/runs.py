"""What ``perturbify finetune`` does with one run, single or one of several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbify.cli import reports
from perturbify.cli.console import Console
from perturbify.text import duration

if TYPE_CHECKING:
    from torch import nn

    from perturbify.checks import Report
    from perturbify.data import Data
    from perturbify.settings import Recipe
    from perturbify.surgery.noisy import Perturbed
    from perturbify.training import Result
    from perturbify.training.folder import RunFolder


@dataclass(frozen=True)
class How:
    """The options of a run besides its recipe.

    Attributes:
        device: As for :func:`perturbify.finetune`.
        trust_factory: As for :func:`perturbify.load`.
        checked: Whether it is checked at the end.
        force: Whether a run in its folder may be replaced.
    """

    device: str
    trust_factory: bool
    checked: bool
    force: bool


def fresh_folder(recipe: Recipe, *, seeds_inside: bool = False) -> Path:
    """The first unused folder in runs/ for this recipe and model; for several seeds, the first that is not a run."""
    from perturbify.training.folder import RunFolder

    # The name of a user's own network is any text; it must not lead elsewhere.
    first = Path("runs") / re.sub(r"[^\w.-]+", "_", f"{recipe.name}-{recipe.model.rpartition(':')[2]}")
    return next(f for f in _numbered(first) if not (RunFolder(f).is_run if seeds_inside else f.exists()))


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1


def ready(console: Console, recipe: Recipe, folder: RunFolder, *, checked: bool) -> Callable[[Perturbed, Data], None]:
    """Before the first step: saves and prints whether the run will be checked at the end."""

    def tell(network: Perturbed, data: Data) -> None:
        from dataclasses import asdict

        from perturbify.checks import CheckPlan
        from perturbify.checks.forecast import forecast

        folder.keep_checked(checked)
        if checked and not console.quiet:
            seconds = forecast(network, data, CheckPlan(**asdict(recipe.check)))
            console.log(f"after training: a check of about {duration(seconds)} on this machine (--no-check skips it)")

    return tell


def check(console: Console, result: Result, recipe: Recipe, data: Data) -> Report:
    """Checks a finished run according to its recipe."""
    from dataclasses import asdict

    from perturbify import checkpoint
    from perturbify.checks import CheckPlan
    from perturbify.checks import check as run_check

    with console.checking() as show:
        return run_check(
            result.model,
            data,
            CheckPlan(**asdict(recipe.check)),
            name=recipe.model,
            about=checkpoint.read_header(result.folder.model).provenance(),
            on_progress=show,
        )


def keep(report: Report, folder: RunFolder) -> None:
    """Saves a run's report in its folder, its model and its card."""
    reports.write(report, folder.path)
    reports.embed(report, folder.model)


def values(folder: RunFolder, metrics: list[dict[str, Any]], report: Report | None) -> dict[str, Any]:
    """A run as JSON values."""
    from perturbify.training.held_out import best_epoch

    best = best_epoch(metrics)
    return {
        "run": str(folder.path),
        "model": str(folder.model),
        "best": None if best is None else {"epoch": best, "model": str(folder.best)},
        "metrics": metrics,
        "report": None if report is None else report.to_dict(),
    }


def resolved(recipe: Recipe, model: nn.Module) -> Recipe:
    """A recipe as saved in a run's folder; a FILE has its own noise."""
    from dataclasses import replace

    from perturbify.surgery.noisy import Perturbed

    config = model.surgery.plan.config if isinstance(model, Perturbed) else None
    return recipe if config is None else replace(recipe, perturb=config)


def train(
    console: Console, recipe: Recipe, data: Data, model: nn.Module, folder: RunFolder, how: How, *, begun: bool
) -> Result:
    """Trains a network in a folder, resuming where its run stopped."""
    from perturbify import zoo
    from perturbify.training import launch

    console.log("preparing: wrapping the network and trying one step")
    tell = ready(console, recipe, folder, checked=how.checked)
    with console.training() as show:
        if not begun:
            return launch.finetune(
                model,
                recipe,
                folder.path,
                data=data,
                device=how.device,
                force=how.force,
                on_ready=tell,
                on_step=show,
            )
        return launch.resume(
            folder.path,
            # A factory that was named and just run must not be run again because a file names it.
            model=model if zoo.is_factory(recipe.model) else None,
            data=data,
            device=how.device,
            trust_factory=how.trust_factory,
            on_ready=tell,
            on_step=show,
        )
