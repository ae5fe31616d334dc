"""A reproduction in progress: job after job, each trained and then checked, resumed where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from perturbify import checkpoint, zoo
from perturbify.checks import Progress as CheckProgress
from perturbify.checks import Report, check
from perturbify.data import Data
from perturbify.errors import PerturbifyError
from perturbify.methods.loading import load
from perturbify.ranks import Ranks, ranks
from perturbify.reproduction.folder import ReproductionFolder, describe
from perturbify.reproduction.job import Job, Reproduction, jobs
from perturbify.reproduction.paper import table
from perturbify.settings import Recipe
from perturbify.training import Result, launch
from perturbify.training.folder import RunFolder
from perturbify.training.metrics import Progress
from perturbify.training.seeds import fresh_weights


@dataclass(frozen=True)
class Outcome:
    """The progress of a job.

    Attributes:
        job: The job.
        data: Its images; None if the job cannot be run.
        report: Its check; None if it has not been checked yet.
        why: Why it could not be run; None if it could, or has not been tried yet.
        theta: Mean of θ at the end of training; None without noise, or before the end.
    """

    job: Job
    data: Data | None = None
    report: Report | None = None
    why: str | None = None
    theta: float | None = None


@dataclass(frozen=True)
class Watcher:
    """Callbacks for a reproduction's progress.

    Attributes:
        begins: Called before each job that is not finished, with the number of jobs before it and in all.
        steps: Called after every training step.
        checks: Called after every batch of a check.
        checked: Called with each new report and its run's folder; writes the report's files there.
        ends: Called after each job with all outcomes so far; writes the table.
    """

    begins: Callable[[Job, int, int], None]
    steps: Callable[[Progress], None]
    checks: Callable[[CheckProgress], None]
    checked: Callable[[Report, RunFolder], None]
    ends: Callable[[Sequence[Outcome]], None]


def reproduce(
    reproduction: Reproduction,
    path: Path,
    watcher: Watcher,
    *,
    device: str = "auto",
    download: bool = False,
    force: bool = False,
) -> tuple[Outcome, ...]:
    """Runs the remaining jobs of a reproduction.

    Finished runs are read, an interrupted run is resumed, and an interrupted check continues where it stopped. A job
    that fails is noted with its reason, and the others are run.

    Args:
        reproduction: What to reproduce.
        path: Its folder.
        watcher: Its callbacks.
        device: As for :func:`perturbify.finetune`.
        download: Whether a dataset that is not on this machine may be downloaded.
        force: Whether another reproduction in the folder may be replaced.

    Returns:
        The outcome of each job.

    Raises:
        DataError: The images are not available.
        OutputExists: The folder holds something else.
        PerturbifyError: A recipe, a weights file, the device or the folder is invalid; before any long work.
    """
    launch.choose_device(device)
    folder = ReproductionFolder(path)
    with ranks() as processes, folder.busy() if processes.first else nullcontext():
        outcomes = prepared(reproduction, processes, download=download)
        if processes.first:
            work = [(o.job, o.data) for o in outcomes if o.data is not None]
            folder.open(describe(reproduction, work), force=force)
        processes.gather(None)  # the folder exists now
        for i, outcome in enumerate(outcomes):
            if outcome.data is not None:
                if not processes.agree(folder.is_finished(outcome.job)):
                    watcher.begins(outcome.job, i, len(outcomes))
                outcomes[i] = _done(reproduction, outcome.job, outcome.data, folder, watcher, device, processes)
            if processes.first:
                watcher.ends(outcomes)
    return tuple(outcomes)


def prepared(reproduction: Reproduction, processes: Ranks, *, download: bool) -> list[Outcome]:
    """The jobs with their images, before any is run; each dataset is loaded once."""
    loaded: dict[tuple[object, ...], Data] = {}
    outcomes = []
    for job in jobs(reproduction):
        if job.recipe is None:
            outcomes.append(Outcome(job, why=job.why))
            continue
        settings = job.recipe.data
        key = (settings.name, settings.root, settings.image_size)
        if key not in loaded:
            loaded[key] = processes.after_first(partial(launch.load_data, job.recipe, download=download))
        outcomes.append(Outcome(job, loaded[key]))
    return outcomes


def network(reproduction: Reproduction, recipe: Recipe, data: Data) -> tuple[nn.Module, Recipe]:
    """A job's network with its initial weights, and its recipe with everything that a run's folder keeps.

    Raises:
        PerturbifyError: It cannot be built, or its weights file does not fit.
    """
    weights = reproduction.weights.get(recipe.model)
    with fresh_weights(recipe.seed):
        arguments = {"num_classes": len(data.classes), **recipe.model_args}
        model = zoo.create(recipe.model, weights=weights, **arguments)
    spec = zoo.describe(model)
    assert spec is not None
    recipe = replace(recipe, model=spec.name, model_args=dict(spec.kwargs))
    _, height, width = data.input_size
    return model, replace(recipe, data=replace(recipe.data, image_size=height)) if height == width else recipe


def _done(
    reproduction: Reproduction,
    job: Job,
    data: Data,
    folder: ReproductionFolder,
    watcher: Watcher,
    device: str,
    processes: Ranks,
) -> Outcome:
    run, recipe = folder.run(job), job.recipe
    assert recipe is not None
    try:
        if not processes.agree(folder.is_finished(job)):
            with run.busy() if processes.first else nullcontext():
                result = _train(reproduction, job, data, run, watcher, device, processes)
                report = _check(job, result, data, _sources(reproduction, job, folder, result.model), watcher)
                if processes.first:
                    watcher.checked(report, run)
                processes.gather(None)  # the report exists now
        # A run that an earlier version began keeps its own settings.
        job = replace(job, recipe=replace(run.kept_recipe(), name=recipe.name))
        theta = next((m["theta"] for m in reversed(run.read_metrics())), None)
        return Outcome(job, data, Report.read(run.report), theta=None if theta is None else theta["mean"])
    except PerturbifyError as error:
        return Outcome(job, data, why=str(error))


def _train(
    reproduction: Reproduction, job: Job, data: Data, run: RunFolder, watcher: Watcher, device: str, processes: Ranks
) -> Result:
    assert job.recipe is not None
    if processes.agree(run.can_resume):
        return launch.resume(run.path, data=data, device=device, on_step=watcher.steps)
    model, recipe = network(reproduction, job.recipe, data)
    return launch.finetune(
        model, recipe, run.path, data=data, device=device, force=processes.agree(run.is_run), on_step=watcher.steps
    )


def _sources(reproduction: Reproduction, job: Job, folder: ReproductionFolder, like: nn.Module) -> dict[str, nn.Module]:
    """The network that images are crafted on for this job, by its method; empty if there is none.

    Raises:
        PerturbifyError: Its own job has failed.
    """
    name = table(reproduction.table).surrogate
    if name is None or job.surrogate is None:
        return {}
    file = RunFolder(folder.path / job.surrogate).model
    if not file.is_file():
        raise PerturbifyError(
            f"There is no network to craft images on: {job.surrogate} has not been trained.",
            "Repeat the command once it can be trained.",
        )
    return {name: load(file, device=next(like.parameters()).device)}


def _check(job: Job, result: Result, data: Data, sources: dict[str, nn.Module], watcher: Watcher) -> Report:
    on_gpu = next(result.model.parameters()).is_cuda
    return check(
        result.model,
        data,
        replace(job.plan, at_once=8) if on_gpu else job.plan,
        name=f"{job.method} on {job.network}",
        about=checkpoint.read_header(result.folder.model).provenance(),
        sources=sources,
        folder=result.folder.path,
        on_progress=watcher.checks,
    )
