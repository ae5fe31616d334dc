"""The state a run resumes from: a sealed safetensors file without pickle, and the one before it."""

from __future__ import annotations

import json
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perturbify import checkpoint, strict_json
from perturbify import recipe as recipes
from perturbify.checkpoint import container
from perturbify.checkpoint.container import Contents, Shape
from perturbify.checkpoint.header import Header
from perturbify.errors import CheckpointError, RecipeError
from perturbify.settings import Recipe
from perturbify.training import history
from perturbify.training.folder import RunFolder
from perturbify.training.history import Epoch
from perturbify.training.metrics import EpochSums
from perturbify.training.owned import STATE
from perturbify.training.step import Trainer

FORMAT = 2
"""Format of a state. Format 1 had a CRC-32 over its tensors and no seal, and held neither metrics nor the
fingerprint of the images."""


@dataclass(frozen=True)
class Position:
    """The position of a run: the next step, and the sums of the current epoch."""

    epoch: int
    step: int
    sums: EpochSums

    @classmethod
    def start(cls) -> Position:
        """The first step of a run."""
        return cls(0, 0, EpochSums())

    def check(self, recipe: Recipe) -> None:
        """Checks that a run by a recipe can be at this position.

        Raises:
            ValueError: It cannot; says why in a few words.
            TypeError: Something has the wrong type.
        """
        epochs, size, sums = recipe.train.epochs, recipe.train.batch_size, self.sums
        counts = [getattr(sums, name) for name in ("images", "clean_correct", "adversarial_images")]
        counts += [sums.adversarial_correct, *sums.steps.values(), self.epoch, self.step]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise TypeError("a count that is not one")
        sizes = (sums.clean_loss, sums.adversarial_loss, sums.seconds)
        if not all(type(v) in (int, float) and math.isfinite(v) for v in sizes):
            raise TypeError("a sum that is not one")
        if self.epoch > epochs or (self.epoch == epochs and self.step):
            raise ValueError(f"epoch {self.epoch}, step {self.step}, in a run of {epochs} epochs")
        if sums.images != self.step * size or sum(sums.steps.values()) != self.step:
            raise ValueError(f"sums over {sums.images} images before step {self.step}, with batches of {size}")
        if not sums.clean_correct <= sums.images >= sums.adversarial_images >= sums.adversarial_correct:
            raise ValueError("more hits than images")


def save(
    folder: RunFolder,
    trainer: Trainer,
    header: Header,
    position: Position,
    *,
    images: Mapping[str, Any],
    metrics: Sequence[Epoch],
) -> None:
    """Writes the state atomically: network, momenta, position; the previous one is kept.

    Args:
        folder: The run's.
        trainer: Network and optimisers.
        header: What the network is.
        position: The position of the run.
        images: The fingerprint of the images.
        metrics: The complete epochs.

    Raises:
        PerturbifyError: The file cannot be written; the last one is untouched.
    """
    tensors, aliases = checkpoint.unique_tensors(trainer.model.state_dict())
    everything = {f"model/{k}": v for k, v in tensors.items()} | _moments(trainer)
    if trainer.average is not None:
        averages, _ = checkpoint.unique_tensors(trainer.average.network.state_dict())
        everything |= {f"average/{k}": v for k, v in averages.items()}
    about = {
        "format": FORMAT,
        "header": replace(header, aliases=aliases).to_json(),
        "position": asdict(position),
        "frozen": [n for n, p in trainer.model.named_parameters() if not p.requires_grad],
        "images": dict(images),
        "metrics": history.newest(metrics),
    }
    container.write(folder.state, everything, {STATE: json.dumps(about)}, keep=folder.state_before)


@dataclass(frozen=True)
class Saved:
    """A state as read from its file.

    Attributes:
        path: The file.
        header: What the network is.
        recipe: The run's, without the location of its images.
        position: The position of the run.
        frozen: Parameters that do not learn.
        tensors: Network, averages and momenta, by ``model/``, ``average/`` and ``optimizer/``.
        images: The fingerprint of the images; None in a state of format 1.
        metrics: The complete epochs, only the newest if there are very many; none in a state of format 1.
    """

    path: Path
    header: Header
    recipe: Recipe
    position: Position
    frozen: tuple[str, ...]
    tensors: dict[str, Tensor]
    images: dict[str, Any] | None
    metrics: list[Epoch]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Those of the network's tensors, by name."""
        return container.shapes(self._part("model/"))

    def freeze(self, network: nn.Module) -> None:
        """Freezes the parameters that did not learn in the run; call before a trainer is made of the network."""
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name not in self.frozen)

    def restore(self, trainer: Trainer) -> None:
        """Loads the state into a network and its optimisers.

        Raises:
            CheckpointError: They do not fit.
        """
        checkpoint.fill(trainer.model, self._part("model/"), self.header, self.path)
        if trainer.average is not None:
            checkpoint.fill(trainer.average.network, self._part("average/"), self.header, self.path)
        for name, parameter, optimizer in _learning(trainer):
            for key, buffer in self._part(f"optimizer/{name}/").items():
                if buffer.shape != (() if key == "step" else parameter.shape):
                    raise CheckpointError(
                        f"{self.path} holds a {key} of {name} of shape {tuple(buffer.shape)}, which does not fit it.",
                        "Start the run again.",
                    )
                # In the parameter's memory layout, as the optimiser would have made it; a step count has none.
                ours = torch.empty_like(parameter).copy_(buffer) if key != "step" else buffer
                optimizer.state[parameter][key] = ours

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def read_last(folder: RunFolder) -> Saved:
    """Reads the last state of a run, or, with a warning, the previous one where that is damaged.

    Raises:
        CheckpointError: Neither can be read.
    """
    try:
        return read(folder.state)
    except CheckpointError as error:
        try:
            before = read(folder.state_before)
        except CheckpointError:
            raise error from None
        at = before.position
        warnings.warn(
            f"{error.message} Resuming from the previous state, epoch {at.epoch}, step {at.step}.",
            stacklevel=2,
        )
        return before


def read(path: Path) -> Saved:
    """Reads a state.

    Raises:
        CheckpointError: The file is missing or damaged, was changed after it was written, or contradicts itself.
    """
    try:
        contents = container.read(path)
    except CheckpointError as error:
        raise CheckpointError(error.message, "Put it back as it was, or start the run again.") from error
    if STATE not in contents.metadata:
        raise CheckpointError(f"{path} is not the state of a run.", "Put it back as it was, or start the run again.")
    try:
        about: dict[str, Any] = strict_json.loads(contents.metadata[STATE])
        version = about.get("format", 1)
        if type(version) is not int or version > FORMAT:
            raise CheckpointError(
                f"{path} is a state of format {version!r:.40}; this perturbify reads up to {FORMAT}.",
                "Install a newer perturbify.",
            )
        if version == 1 and about["crc32"] != _checksum(contents):
            raise CheckpointError(
                f"{path} is damaged: its tensors are not those that were saved.", "Start the run again."
            )
        if version > 1 and not contents.sealed:
            raise CheckpointError(f"{path} was changed after it was written: its seal is gone.", "Start the run again.")
        header = Header.from_json(about["header"], path)
        recipe = recipes.of_run(header.recipe or "", "state")
        raw = about["position"]
        position = Position(raw["epoch"], raw["step"], EpochSums(**raw["sums"]))
        position.check(recipe)
        if header.trained != {"epochs": position.epoch, "steps_into_next": position.step}:
            raise ValueError(f"a network trained for {header.trained}, at epoch {position.epoch}")
        metrics = about["metrics"] if version > 1 else []
        history.check(metrics)
        if any(e["epoch"] >= position.epoch for e in metrics):
            raise ValueError("metrics of an incomplete epoch")
        frozen = about["frozen"]
        if not isinstance(frozen, list) or not all(isinstance(name, str) for name in frozen):
            raise TypeError("a parameter without a name")
        images = dict(about["images"]) if version > 1 else None
    except (KeyError, ValueError, TypeError, AttributeError, RecipeError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not a valid state of a run: {said}.", "Start the run again.") from error
    return Saved(path, header, recipe, position, tuple(frozen), dict(contents.tensors), images, metrics)


def _checksum(contents: Contents) -> int:
    """Of a state of format 1."""
    sum_so_far = 0
    for name in sorted(contents.tensors):
        values = contents.tensors[name].contiguous().view(-1).view(torch.uint8)
        sum_so_far = zlib.crc32(values.numpy().data, zlib.crc32(name.encode(), sum_so_far))
    return sum_so_far


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    """The optimiser's memory of each parameter: SGD's momentum, Adam's two moments and its step count."""
    return {
        f"optimizer/{name}/{key}": buffer.detach().cpu().contiguous()
        for name, parameter, optimizer in _learning(trainer)
        for key, buffer in optimizer.state.get(parameter, {}).items()
        if isinstance(buffer, Tensor)
    }


def _learning(trainer: Trainer) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Every parameter that learns, with its name and its optimiser."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    for optimizer in trainer.optimizers.values():
        for parameter in optimizer.param_groups[0]["params"]:
            yield names[parameter], parameter, optimizer
