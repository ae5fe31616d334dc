"""``perturbify finetune``: train weights and noise, then check the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import images as loading
from perturbify.cli import interrupts, models, normalization, reports, runs, seeds, spelling
from perturbify.cli.console import Console, metrics_table
from perturbify.cli.options import (
    class_order,
    model_options,
    output_options,
    seeds_from,
    several_seeds,
    wide_option,
)
from perturbify.escape import terminal
from perturbify.text import times

if TYPE_CHECKING:
    from torch import nn

    from perturbify.checks import Report
    from perturbify.data import Data
    from perturbify.ranks import Ranks
    from perturbify.settings import Recipe
    from perturbify.training import Result
    from perturbify.training.folder import RunFolder


@click.command(short_help="Train weights and noise, then check.")
@click.option("--recipe", "recipe_name", help="A built-in recipe, or a .toml file; see `perturbify recipes ls`.")
@click.option("--model", "model_name", help="A model's name, or a perturbify FILE; default: the recipe's.")
@click.option("--method", help="The defence, with its own noise; default: the recipe's.")
@click.option("--data", "data_name", help="A dataset, .npz file, or image folder; default: the recipe's.")
@click.option("-o", "--run-dir", type=click.Path(path_type=Path), help="The run's folder; default: a new one in runs/.")
@click.option("--resume", "resumed", type=click.Path(path_type=Path), metavar="RUN", help="Resume a run.")
@click.option(
    "--seeds",
    "wanted",
    callback=several_seeds,
    metavar="N|LIST",
    help="One run for each of N seeds from the recipe's on, or for a list such as 0,4,7; the same command resumes.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@class_order
@click.option("--download", is_flag=True, help="Download the dataset if it is missing.")
@click.option(
    "--check/--no-check",
    "checked",
    default=None,
    help="Check robustness at the end; a resumed run keeps its setting.",
)
@click.option("--force", is_flag=True, help="Replace a run in the folder.")
@model_options
@normalization.normalization_options
@wide_option
@output_options
def finetune(
    recipe_name: str | None,
    model_name: str | None,
    method: str | None,
    data_name: str | None,
    class_order: str | None,
    run_dir: Path | None,
    resumed: Path | None,
    wanted: int | tuple[int, ...] | None,
    overrides: tuple[str, ...],
    device: str,
    download: bool,
    checked: bool | None,
    force: bool,
    trust_factory: bool,
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> None:
    """Train a network's weights and its noise against an adversary, and check the result.

    The run's folder holds the resolved recipe, metrics, the model with its card, and the state for --resume. Once the
    model is written, the exit status is that of its check; 0: the figures are established; 3: a criterion failed; 4:
    they could not be established. With --seeds the runs go to seed-0, seed-1, …, one after the other; finished runs are
    kept, a table shows mean ± sd over the runs, and the exit status is the worst of theirs.

    \b
      perturbify finetune --recipe digits
      perturbify finetune --recipe cifar10 --model resnet18 --data photos/
      perturbify finetune --resume runs/digits-cifar_resnet20
    """
    console = Console(quiet=quiet, as_json=as_json)
    if wanted is not None and resumed is not None:
        raise click.UsageError("--resume is for one run; to resume several, repeat the command with --seeds.")
    if wanted is not None and any(o.partition("=")[0].strip() == "seed" for o in overrides):
        raise click.UsageError("--seeds sets the seeds, so leave out --set seed.")
    if (resumed is None) == (recipe_name is None):
        raise click.UsageError("Use --recipe to start a run, or --resume to resume one.")

    from perturbify import recipe as recipes
    from perturbify.training.folder import RunFolder

    spelling.device(device)
    if resumed is not None:
        if model_name or method or data_name or class_order or run_dir or overrides or force or any(how.values()):
            raise click.UsageError("A resumed run has its own model, data, folder and settings: --resume alone.")
        console.log(f"reading: {resumed}")
        RunFolder(resumed).read_recipe()  # raises if there is no run to lock
    else:
        overrides = (*((f'method="{method}"',) if method else ()), *overrides)
        if class_order is not None:
            overrides = (*overrides, f"data.class_order={json.dumps(class_order)}")
        asked = recipes.load(str(recipe_name), overrides)
        spelling.data(data_name or asked.data.name)
        spelling.model(model_name or asked.model)
        spelling.weights(how["weights"])
        console.log(f"recipe: {recipe_name}, {asked.method} on {model_name or asked.model}")

    from perturbify.ranks import ranks
    from perturbify.training import launch

    with ranks() as processes:
        if resumed is not None:
            folder = RunFolder(resumed)
        else:
            launch.choose_device(device)

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
                chosen = seeds_from(wanted, asked.seed)
                recipe, data, model = set_up(chosen[0])
                base = run_dir or processes.agree(runs.fresh_folder(recipe, seeds_inside=True))
                how_to = runs.How(device, trust_factory=trust_factory, checked=checked is not False, force=force)
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
        # Locked from the first step to the last page of the report.
        alone = folder.busy() if processes.first else nullcontext()
        with interrupts.safe(_standing(folder, resumed=resumed is not None)), alone:
            if resumed is not None:
                checked = folder.checked if checked is None else checked
                result, recipe, data = _resume(console, folder, device, download, trust_factory, checked)
            else:
                checked = checked is not False
                how_to = runs.How(device, trust_factory=trust_factory, checked=checked, force=force)
                result = runs.train(console, recipe, data, model, folder, how_to, begun=False)
            report = None if not checked else runs.check(console, result, recipe, data)
            _finish(console, result, report)


def _resume(
    console: Console, folder: RunFolder, device: str, download: bool, trust_factory: bool, checked: bool
) -> tuple[Result, Recipe, Data]:
    from perturbify.training import launch

    console.log(f"run: {folder.path}, resumed")
    recipe = folder.read_recipe()
    tell = runs.ready(console, recipe, folder, checked=checked)
    with console.training() as show:
        result = launch.resume(
            folder.path, device=device, download=download, trust_factory=trust_factory, on_ready=tell, on_step=show
        )
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
    from perturbify.data import suited
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
        normalization.refuse(how, name)
        if any(how.values()):
            raise click.UsageError("A FILE has its own weights and arguments; leave out these options.")
        model = models.load(console, name, trust_factory=trust_factory)
    header = checkpoint.read_header(name) if models.is_file(name) else None
    arguments = {**(recipe.model_args if name == recipe.model else {}), **how["model_args"]}
    wanted = (loading.channels_of(header), header.image_size()) if header else loading.taken_by(name, arguments)
    data = processes.after_first(lambda: launch.load_data(recipe, download=download, default_size=wanted[1]))
    data = suited(data, wanted[0])
    loading.told(console, data)
    if data.input_size[1] == data.input_size[2]:
        recipe = replace(recipe, data=replace(recipe.data, image_size=data.input_size[1]))
    if not models.is_file(name):
        if name == recipe.model or _same(name, recipe.model):
            how["model_args"] = {**recipe.model_args, **how["model_args"]}
        with fresh_weights(recipe.seed):
            model = models.create(console, name, num_classes=len(data.classes), **how)
        recipe = _normalized(console, recipe, data, model, how)
    spec = zoo.describe(model)
    if spec is not None:
        recipe = replace(recipe, model=spec.name, model_args=dict(spec.kwargs))
    return recipe, data, model


def _normalized(console: Console, recipe: Recipe, data: Data, model: nn.Module, how: dict[str, Any]) -> Recipe:
    """The recipe with a plain network's normalisation in it, so that its run can be repeated."""
    from dataclasses import replace

    from perturbify.normalize import Normalize

    given = normalization.asked(how)
    mean, std = recipe.data.mean, recipe.data.std
    if given is None and mean is not None and std is not None:
        given = Normalize(mean, std)
    layer = normalization.settle(console, model, data, given).layer
    channels = data.input_size[0]  # which leave pixels unchanged
    mean, std = ((0.0,) * channels, (1.0,) * channels) if layer is None else layer.constants
    return replace(recipe, data=replace(recipe.data, mean=mean, std=std))


def _same(name: str, of_recipe: str) -> bool:
    """Whether two names mean the same library model; a recipe's factory is not imported for this."""
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
            "warning: W and θ learn in every step, so train.w_steps and train.theta_steps are ignored; to alternate, "
            "set train.joint=false"
        )
    if methods.get(recipe.method).alternates and train.warmup_epochs >= train.epochs:
        console.log(
            "warning: every epoch is warm-up: the noise stays off and θ learns nothing; see train.warmup_epochs"
        )


def _standing(folder: RunFolder, *, resumed: bool) -> Callable[[], str]:
    """Returns a function that says, when interrupted, what is saved of a run and how to resume it."""
    from perturbify.files import identity

    before = None if resumed else identity(folder.state)

    def said() -> str:
        if identity(folder.state) == before:  # possibly that of a run to be replaced
            return interrupts.NOTHING_LOST
        if folder.model.is_file():
            return f"The model is finished and saved in {folder.model}; to check it: {folder.how_to_check}"
        return f"Resume from the last saved state: {folder.how_to_resume}"

    return said


def _finish(console: Console, result: Result, report: Report | None) -> None:
    from perturbify.training.held_out import best_epoch

    folder = result.folder
    text = metrics_table(result.metrics, console.width)
    best = best_epoch(result.metrics)
    if report is not None:
        text += "\n\n" + reports.text(report, console.width)
    try:
        if report is not None and console.first:
            runs.keep(report, folder)
    finally:  # the result is printed even if it could not be saved
        console.result(
            f"{text}\n\nmodel: {terminal(folder.model)}"
            + (
                "" if best is None else f"\nbest epoch by the held-out images: {best} (from 0), {terminal(folder.best)}"
            ),
            runs.values(folder, result.metrics, report),
        )
    if report is not None and report.status and console.first:  # torchrun would kill the first process while it writes
        click.get_current_context().exit(report.status)
