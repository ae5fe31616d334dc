"""``perturbify finetune``: train weights and noise, then check what came out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import interrupts, models, reports, runs, seeds
from perturbify.cli.console import Console, metrics_table
from perturbify.cli.options import model_options, output_options, seeds_from, several_seeds
from perturbify.escape import terminal
from perturbify.text import times

if TYPE_CHECKING:
    from perturbify.checks import Report
    from perturbify.data import Data
    from perturbify.ranks import Ranks
    from perturbify.settings import Recipe
    from perturbify.training import Result
    from perturbify.training.folder import RunFolder


@click.command()
@click.option("--recipe", "recipe_name", help="A built-in recipe, or a .toml file; see `perturbify recipes ls`.")
@click.option("--model", "model_name", help="A model's name, or a FILE of perturbify's; default: the recipe's.")
@click.option("--method", help="The defence, with its own noise; default: the recipe's.")
@click.option("--data", "data_name", help="A dataset, .npz file, or image folder; default: the recipe's.")
@click.option("-o", "--run-dir", type=click.Path(path_type=Path), help="The run's folder; default: a new one in runs/.")
@click.option("--resume", "resumed", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a run.")
@click.option(
    "--seeds",
    "wanted",
    callback=several_seeds,
    metavar="N|LIST",
    help="A run each of N seeds, from the recipe's on, or of these, such as 0,4,7; the same command goes on.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--download", is_flag=True, help="Fetch the dataset if it is not here.")
@click.option("--no-check", is_flag=True, help="Leave out the robustness check at the end.")
@click.option("--force", is_flag=True, help="Replace a run in the folder.")
@model_options
@output_options
def finetune(
    recipe_name: str | None,
    model_name: str | None,
    method: str | None,
    data_name: str | None,
    run_dir: Path | None,
    resumed: Path | None,
    wanted: int | tuple[int, ...] | None,
    overrides: tuple[str, ...],
    device: str,
    download: bool,
    no_check: bool,
    force: bool,
    trust_factory: bool,
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> None:
    """Train a network's weights and its noise against an adversary, and check the result.

    The run's folder holds the resolved recipe, metrics, the model with its card, and the state that --resume needs.
    Once the model is written, the exit status is that of its check; 0: the figures are established; 3: a criterion
    failed; 4: they could not be established. With --seeds there is a run in seed-0, seed-1, … each, one after the
    other; what is finished is kept, a table says mean ± sd over the runs, and the exit status is the worst of theirs.
    """
    console = Console(quiet=quiet, as_json=as_json)
    if wanted is not None and resumed is not None:
        raise click.UsageError("--resume goes on with one run; the same command with --seeds goes on with several.")
    if wanted is not None and any(o.partition("=")[0].strip() == "seed" for o in overrides):
        raise click.UsageError("--seeds says the seeds, so --set seed has no place beside it.")
    if (resumed is None) == (recipe_name is None):
        raise click.UsageError("Give --recipe to start a run, or --resume to go on with one.")

    from perturbify.ranks import ranks
    from perturbify.training import launch
    from perturbify.training.folder import RunFolder

    with ranks() as processes:
        if resumed is not None:
            if model_name or method or data_name or run_dir or overrides or force or any(how.values()):
                raise click.UsageError("A resumed run has its own model, data, folder and settings: --resume alone.")
            folder = RunFolder(resumed)
            folder.read_recipe()  # or there is nothing to be locked
        else:
            launch.choose_device(device)
            overrides = (*((f'method="{method}"',) if method else ()), *overrides)

            def set_up(seed: int | None = None) -> tuple[Recipe, Data, Any]:
                changed = overrides if seed is None else (*overrides, f"seed={seed}")
                with console.aside():
                    return _set_up(
                        console,
                        str(recipe_name),
                        model_name,
                        data_name,
                        changed,
                        download,
                        trust_factory,
                        how,
                        processes,
                    )

            if wanted is not None:
                from perturbify import recipe as recipes

                chosen = seeds_from(wanted, recipes.load(str(recipe_name), overrides).seed)
                recipe, data, model = set_up(chosen[0])
                base = run_dir or processes.agree(runs.fresh_folder(recipe, seeds_inside=True))
                how_to = runs.How(device, trust_factory=trust_factory, checked=not no_check, force=force)
                start = seeds.beginning(model, data, file=models.is_file(model_name or recipe.model))
                plan = seeds.Several(base, chosen, runs.resolved(recipe, model), how_to, start)
                if processes.first:
                    plan.look()
                _announce(console, recipe, data, base)
                seeds.run(console, plan, (recipe, data, model), set_up, processes)
                return
            if run_dir is not None and processes.first:
                RunFolder(run_dir).check(force=force)
            recipe, data, model = set_up()
            folder = RunFolder(run_dir or processes.agree(runs.fresh_folder(recipe)))
            _announce(console, recipe, data, folder.path)
        # From the first step to the last page of the report, nobody else writes there.
        alone = folder.busy() if processes.first else nullcontext()
        with interrupts.safe(_standing(folder, resumed=resumed is not None)), alone:
            if resumed is not None:
                result, recipe, data = _resume(console, resumed, device, download, trust_factory)
            else:
                with console.training() as show:
                    result = launch.finetune(
                        model, recipe, folder.path, data=data, device=device, force=force, on_step=show
                    )
            report = None if no_check else runs.check(console, result, recipe, data)
            _finish(console, result, report)


def _resume(
    console: Console, run: Path, device: str, download: bool, trust_factory: bool
) -> tuple[Result, Recipe, Data]:
    from perturbify.training import launch

    console.log(f"run: {run}, resumed")
    with console.training() as show:
        result = launch.resume(run, device=device, download=download, trust_factory=trust_factory, on_step=show)
    recipe = result.folder.read_recipe()
    return result, recipe, launch.load_data(recipe, download=download)


def _set_up(
    console: Console,
    recipe_name: str,
    model_name: str | None,
    data_name: str | None,
    overrides: tuple[str, ...],
    download: bool,
    trust_factory: bool,
    how: dict[str, Any],
    processes: Ranks,
) -> tuple[Recipe, Data, Any]:
    from dataclasses import replace

    from perturbify import checkpoint, zoo
    from perturbify import recipe as recipes
    from perturbify.training import launch
    from perturbify.training.seeds import fresh_weights

    recipe = recipes.load(recipe_name, overrides)
    if data_name is not None:
        recipe = replace(recipe, data=replace(recipe.data, name=data_name))
    name = recipe.model if model_name is None else model_name
    if model_name is None and not any(o.partition("=")[0].strip() == "model" for o in overrides):
        zoo.check_trusted(name, f"the recipe {recipe_name}", trust_factory=trust_factory)
    if models.is_file(name):
        name = models.file_of(name)
        if any(how.values()):
            raise click.UsageError("A FILE brings its own weights and arguments; give it alone.")
        model = models.load(console, name, trust_factory=trust_factory)
    size = checkpoint.read_header(name).image_size() if models.is_file(name) else None
    data = processes.after_first(lambda: launch.load_data(recipe, download=download, default_size=size))
    if data.input_size[1] == data.input_size[2]:
        recipe = replace(recipe, data=replace(recipe.data, image_size=data.input_size[1]))
    if not models.is_file(name):
        if name == recipe.model or _same(name, recipe.model):
            how["model_args"] = {**recipe.model_args, **how["model_args"]}
        with fresh_weights(recipe.seed):
            model = models.create(console, name, num_classes=len(data.classes), **how)
    spec = zoo.describe(model)
    if spec is not None:
        recipe = replace(recipe, model=spec.name, model_args=dict(spec.kwargs))
    return recipe, data, model


def _same(name: str, of_recipe: str) -> bool:
    """Whether two names mean the same model of a library; a recipe's own factory is not imported to see that."""
    from perturbify import zoo

    return not zoo.is_factory(of_recipe) and zoo.resolve(name) == zoo.resolve(of_recipe)


def _announce(console: Console, recipe: Recipe, data: Data, folder: Path) -> None:
    from perturbify import methods
    from perturbify.methods import theta_way

    images = min(len(data.train), recipe.data.train_images or len(data.train))
    images -= recipe.data.held_out or 0
    console.log(f"data: {data.name}, {images} training and {len(data.test)} test images of {times(data.input_size)}")
    console.log(f"run: {folder}")
    faster = theta_way.planned(recipe, images, warms_up=methods.get(recipe.method).alternates)
    if faster is not None:
        console.log(faster)
    train = recipe.train
    if methods.get(recipe.method).alternates and train.joint and (train.w_steps, train.theta_steps) != (1, 1):
        console.log(
            "warning: W and θ learn in every step, so train.w_steps and train.theta_steps mean nothing; turns want "
            "train.joint=false"
        )
    if methods.get(recipe.method).alternates and train.warmup_epochs >= train.epochs:
        console.log(
            "warning: every epoch is warm-up: the noise stays off and θ learns nothing; see train.warmup_epochs"
        )


def _standing(folder: RunFolder, *, resumed: bool) -> Callable[[], str]:
    """What says, at the moment of an interruption, what is safe of a run and how to go on with it."""
    from perturbify.files import identity

    before = None if resumed else identity(folder.state)

    def said() -> str:
        if identity(folder.state) == before:  # which may be that of a run that was to be replaced
            return interrupts.NOTHING_LOST
        if folder.model.is_file():
            return f"The model is finished and safe in {folder.model}; to check it: {folder.how_to_resume}"
        return f"Go on from the last saved state: {folder.how_to_resume}"

    return said


def _finish(console: Console, result: Result, report: Report | None) -> None:
    from perturbify.training.held_out import best_epoch

    folder = result.folder
    text = metrics_table(result.metrics)
    best = best_epoch(result.metrics)
    if report is not None:
        text += "\n\n" + reports.text(report)
    try:
        if report is not None and console.first:
            runs.keep(report, folder)
    finally:  # what was measured is told, also where no room is left for it
        console.result(
            f"{text}\n\nmodel: {terminal(folder.model)}"
            + (
                "" if best is None else f"\nbest epoch by the images held out: {best} (from 0), {terminal(folder.best)}"
            ),
            runs.values(folder, result.metrics, report),
        )
    if report is not None and report.status and console.first:  # torchrun would end the first one while it writes
        click.get_current_context().exit(report.status)
