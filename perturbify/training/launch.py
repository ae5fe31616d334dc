"""From a network and a recipe to a run, and from a run's folder back to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbify import checkpoint, methods
from perturbify import data as datasets
from perturbify import recipe as recipes
from perturbify.arguments import check_network, check_path, check_type
from perturbify.channels import channels
from perturbify.data import Data, as_data
from perturbify.display import lines
from perturbify.errors import TrainingError
from perturbify.files import keep_copy, set_aside
from perturbify.methods.wrapping import for_file
from perturbify.ranks import Ranks, ranks
from perturbify.settings import CheckSettings, Recipe, SpeedSettings
from perturbify.surgery.noisy import Perturbed
from perturbify.text import counted, percent
from perturbify.training import owned, state
from perturbify.training.folder import RunFolder
from perturbify.training.prepare import prepare
from perturbify.training.run import OnStep, Run
from perturbify.training.state import Position, Saved
from perturbify.training.step import Trainer
from perturbify.zoo.pixels import Given

_FREE = {
    *("name", "data.name", "data.root", "train.save_minutes", "train.tensorboard"),
    *(f"speed.{f.name}" for f in fields(SpeedSettings)),
    *(f"check.{f.name}" for f in fields(CheckSettings)),
}
"""Settings that may change when a run is resumed; the data are compared with those it began with."""


OnReady = Callable[[Perturbed, Data], None]


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        model: The network, in eval mode, noise on.
        folder: The run's folder.
        metrics: One entry an epoch, as in ``metrics.jsonl``.
    """

    model: Perturbed
    folder: RunFolder
    metrics: list[dict[str, Any]]

    def __repr__(self) -> str:
        last = self.metrics[-1] if self.metrics else {}
        theta = (last.get("theta") or {}).get("mean")
        return lines(
            f"Result: {type(self.model).__name__}, {self.model.surgery.method}, {counted(len(self.metrics), 'epoch')}",
            [
                ("folder", str(self.folder.path)),
                ("clean", _accuracy(last.get("clean_accuracy"))),
                ("attacked", _accuracy(last.get("adversarial_accuracy"))),
                ("θ", "" if theta is None else f"{theta:.4g} on average"),
            ],
            "perturbify.check(result.model, images) measures it",
        )


def _accuracy(value: float | None) -> str:
    return "" if value is None else f"{percent(value)} % of the training images in the last epoch"


def finetune(
    model: nn.Module,
    recipe: Recipe | str | Path,
    run_dir: str | Path,
    *,
    data: Any = None,
    normalize: Given = None,
    device: str = "auto",
    download: bool = False,
    force: bool = False,
    on_ready: OnReady | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Trains the weights and the noise of a network (Learn2Perturb, Algorithm 1).

    In processes that torchrun started, each takes its part of every batch, with its own noise; the first one writes.

    Args:
        model: A plain network, which is copied and wrapped by the recipe's settings, with a normalisation layer inside;
            or one that :func:`perturbify.wrap` or :func:`perturbify.load` returned, which is trained in place.
        recipe: A recipe, or the name or file of one.
        run_dir: A folder for the run; it must be empty or absent.
        data: The images, as :func:`perturbify.data.as_data` takes them: a :class:`~perturbify.data.Data`, a name or
            path, a pair (train, test) of datasets, loaders or tensors; by default those that the recipe names.
        normalize: How pixels in [0, 1] reach a plain network: a layer, or ``"inside"`` where it takes them as they are.
            By default what the recipe says, else what is known of its weights, else a guess, which is logged.
        device: ``"auto"`` takes a GPU if there is one; else a torch device name.
        download: Whether a dataset that is not on this machine may be downloaded.
        force: Whether a run in the folder may be replaced.
        on_ready: Called with the network and the images before the first step, by torchrun's first process.
        on_step: Called after every step.

    On SIGINT (Ctrl-C) and SIGTERM the step finishes and the state is saved before the signal takes effect.

    Returns:
        The trained network and its files.

    Raises:
        Diverged: A loss, a weight or θ is no longer finite; the last good state is kept in the folder.
        PerturbifyError: Anything else is wrong with model, recipe, data, device, or folder; before training.
    """
    check_network(model, "finetune")
    check_path(run_dir, "finetune", "the run's folder")
    check_type(
        recipe,
        (Recipe, str, os.PathLike),
        "A recipe is a Recipe, a name, or the path of a file",
        'perturbify.recipe.load("smoke", {"train.epochs": 3}) reads one and changes settings in it.',
    )
    chosen = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    method = methods.get(chosen.method)
    target = choose_device(device)
    folder = RunFolder(Path(run_dir))
    with ranks() as processes:
        if processes.first:
            folder.check(force=force)
        images = _images(data, chosen, model, processes, download=download)
        network = _place(prepare(model, chosen, images, method, normalize), target, chosen, processes)
        if network.surgery.plan.config is not None:
            chosen = replace(chosen, perturb=network.surgery.plan.config)
        trainer = Trainer(network, chosen, method, processes)
        run = Run(trainer, images, folder, on_step)
        run.rehearse()
        with folder.busy() if processes.first else nullcontext():
            if processes.first:
                folder.begin(chosen, force=force)
                if on_ready is not None:
                    on_ready(network, images)
            run.save(Position.start())
            return Result(network, folder, run.train(Position.start()))


def resume(
    run_dir: str | Path,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    device: str = "auto",
    download: bool = False,
    trust_factory: bool = False,
    on_ready: OnReady | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Resumes a run from its last saved state; on the CPU its results are those of an uninterrupted run.

    Args:
        run_dir: The folder of the run.
        model: The source network, where it did not come from the zoo.
        data: The images, as for :func:`finetune`, where the recipe does not name them.
        device: As for :func:`finetune`.
        download: As for :func:`finetune`.
        trust_factory: As for :func:`perturbify.load`.
        on_ready: Called with the network and the images before the first step, by torchrun's first process.
        on_step: Called after every step.

    Raises:
        TrainingError: The folder holds no run, another process is using it, its recipe was changed in more
            than speed and what is displayed, or the images are not those it began with.
        CheckpointError: Its state is damaged.
    """
    check_path(run_dir, "resume", "a run's folder")
    if model is not None:
        check_network(model)
    folder = RunFolder(Path(run_dir))
    folder.read_recipe()  # raises if there is nothing to lock
    target = choose_device(device)
    with ranks() as processes, folder.busy() if processes.first else nullcontext():
        recipe, saved = folder.read_recipe(), state.read_last(folder)
        _check_same_recipe(saved, recipe, folder)
        network = checkpoint.build(
            saved.header, saved.shapes, saved.path, model, for_method=for_file, trust_factory=trust_factory
        )
        images = _images(data, recipe, network, processes, download=download)
        _check_same_data(saved, images, folder)
        network = _place(network, target, recipe, processes)
        processes.gather(None)  # all have read what the first one may replace
        if processes.first:
            folder.sweep()
            folder.mark()  # a folder of an earlier version has no mark
            if saved.path == folder.state_before:  # or the next save would overwrite it with the damaged one
                if os.path.lexists(folder.state) and not owned.is_state(folder.state):
                    set_aside(folder.state)
                keep_copy(folder.state_before, folder.state)
        saved.freeze(network)
        trainer = Trainer(network, recipe, methods.get(recipe.method), processes)
        saved.restore(trainer)
        if on_ready is not None and processes.first:
            on_ready(network, images)
        return Result(network, folder, Run(trainer, images, folder, on_step).train(saved.position, saved.metrics))


def _images(data: Any, recipe: Recipe, model: nn.Module, processes: Ranks, *, download: bool) -> Data:
    """The images that are given, or those that the recipe names, with as many channels as the network takes."""
    if data is None:
        data = processes.after_first(lambda: load_data(recipe, download=download))
    return as_data(data, channels=channels(model))


def load_data(
    recipe: Recipe, *, download: bool = False, default_size: int | None = None, channels: int | None = None
) -> Data:
    """The dataset a recipe names; ``default_size`` and ``channels`` as for :func:`perturbify.data.load`."""
    settings = recipe.data
    return datasets.load(
        settings.name,
        root=settings.root,
        image_size=settings.image_size,
        default_size=default_size,
        channels=channels,
        class_order=settings.class_order,
        download=download,
    )


def choose_device(name: str) -> torch.device:
    """The device of a name; ``"auto"`` is a GPU if there is one, and each of torchrun's processes has its own.

    Raises:
        TrainingError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cpu":
            if device.index:
                raise RuntimeError("there is one cpu")
            device = torch.device("cpu")
        elif device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.zeros(1, device=device).item()  # fails on a device without values, such as meta
    except Exception as error:  # every kind of device fails in its own way when it is missing
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"There is no device {name!r} here ({reason[:150]}).", "Use --device cpu, or auto."
        ) from error
    return device


def _place(network: Perturbed, device: torch.device, recipe: Recipe, processes: Ranks) -> Perturbed:
    if recipe.train.sync_batchnorm and processes.world > 1:
        if device.type != "cuda":
            raise TrainingError(
                f"train.sync_batchnorm needs GPUs, and this is {device}.",
                "Set it to false: each process then normalises by its own images, and running means are averaged.",
            )
        from timm.layers.norm_act import convert_sync_batchnorm

        network = convert_sync_batchnorm(network)
    if not recipe.speed.channels_last:
        return network.to(device)
    # Convolutions are faster in channels-last memory; the result is the same.
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check_same_recipe(saved: Saved, recipe: Recipe, folder: RunFolder) -> None:
    before, now = _settings(saved.recipe), _settings(recipe)
    changed = [key for key in now if key not in _FREE and before[key] != now[key]]
    if changed:
        raise TrainingError(
            f"{folder.recipe} was changed since the run began: {', '.join(changed)}.",
            f"Set {changed[0]} back to {before[changed[0]]!r}, or start a new run.",
        )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting by its dotted key."""
    sections = asdict(recipe)
    whole = {key: value for key, value in sections.items() if key == "model_args" or not isinstance(value, dict)}
    parts = {f"{s}.{key}": v for s, values in sections.items() if s not in whole for key, v in values.items()}
    return whole | parts


def _check_same_data(saved: Saved, data: Data, folder: RunFolder) -> None:
    """The images must be those that the run began with, wherever they are now."""
    began_with, classes = saved.recipe.data.name, saved.header.classes or []
    hint = "Resume it with the data it began with, or start a new run."
    if data.name != began_with or list(data.classes) != classes:
        raise TrainingError(
            f"The run in {folder.path} began with {len(classes)} classes of {began_with}; "
            f"these are {len(data.classes)} of {data.name}.",
            hint,
        )
    before, now = saved.images, data.fingerprint  # a state of format 1 holds none
    if before is None or before == now:
        return
    words = {"train_images": "training images", "test_images": "test images", "input_size": "their size"}
    other = [f"{said}: {before.get(k)} then, {now[k]} now" for k, said in words.items() if before.get(k) != now[k]]
    raise TrainingError(
        f"The run in {folder.path} began with other images of {began_with} ("
        + ("; ".join(other) or "the same number and size, but different content")
        + ").",
        hint,
    )
