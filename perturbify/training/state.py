"""The state a run resumes from: a safetensors file without pickle, apart from the checkpoint, and the one before it."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perturbify import checkpoint
from perturbify.errors import CheckpointError
from perturbify.files import keep_copy
from perturbify.header import Header
from perturbify.training.folder import RunFolder
from perturbify.training.metrics import EpochSums
from perturbify.training.step import Learner

KEY = "perturbify-state"


@dataclass(frozen=True)
class Position:
    """Where a run stands: the step to be done next, and the sums of the epoch it is in."""

    epoch: int
    step: int
    sums: EpochSums

    @classmethod
    def start(cls) -> Position:
        """The first step of a run."""
        return cls(0, 0, EpochSums())


def save(folder: RunFolder, learner: Learner, header: Header, position: Position) -> None:
    """Writes the state in one move: network, momenta, position; the one before is kept.

    Raises:
        PerturbifyError: The file cannot be written; the last one is untouched.
    """
    tensors, aliases = checkpoint.unique_tensors(learner.model.state_dict())
    everything = {f"model/{k}": v for k, v in tensors.items()} | _moments(learner)
    if learner.average is not None:
        averages, _ = checkpoint.unique_tensors(learner.average.network.state_dict())
        everything |= {f"average/{k}": v for k, v in averages.items()}
    about = {
        "header": replace(header, aliases=aliases).to_json(),
        "position": asdict(position),
        "frozen": [n for n, p in learner.model.named_parameters() if not p.requires_grad],
        "crc32": _checksum(everything),
    }
    keep_copy(folder.state, folder.state_before)
    checkpoint.write_tensors(folder.state, everything, {KEY: json.dumps(about)})


@dataclass(frozen=True)
class Saved:
    """A state as read from its file."""

    path: Path
    header: Header
    position: Position
    frozen: tuple[str, ...]
    tensors: dict[str, Tensor]

    def freeze(self, network: nn.Module) -> None:
        """Freezes the parameters that did not learn in the run; before a learner is made of the network."""
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name not in self.frozen)

    def restore(self, learner: Learner) -> None:
        """Fills a network and its optimisers.

        Raises:
            CheckpointError: They do not fit.
        """
        checkpoint.load_tensors(learner.model, self._part("model/"), self.header, self.path)
        if learner.average is not None:
            checkpoint.load_tensors(learner.average.network, self._part("average/"), self.header, self.path)
        for name, parameter, optimizer in _learning(learner):
            for key, buffer in self._part(f"optimizer/{name}/").items():
                # In the parameter's memory layout, as the optimiser would have made it; a count of steps has none.
                ours = torch.empty_like(parameter).copy_(buffer) if buffer.shape == parameter.shape else buffer
                optimizer.state[parameter][key] = ours.to(parameter.device) if key != "step" else buffer

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def read_last(folder: RunFolder) -> Saved:
    """Reads the last state of a run, or the one before where that is damaged, which a warning says.

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
            f"{error.message} Going on from the state that was saved before it, epoch {at.epoch}, step {at.step}.",
            stacklevel=2,
        )
        return before


def read(path: Path) -> Saved:
    """Reads a state.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    metadata, tensors = checkpoint.read_file(path)
    try:
        about: dict[str, Any] = json.loads(metadata[KEY])
        raw = about["position"]
        position = Position(raw["epoch"], raw["step"], EpochSums(**raw["sums"]))
        header = Header.from_json(about["header"], path)
        frozen = tuple(about["frozen"])
        checksum = about["crc32"]
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not the state of a run.", "Give --resume the run's folder.") from error
    if checksum != _checksum(tensors):
        raise CheckpointError(f"{path} is damaged: its tensors are not those that were saved.", "Start the run again.")
    return Saved(path, header, position, frozen, tensors)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    sum_so_far = 0
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8)
        sum_so_far = zlib.crc32(values.numpy().data, zlib.crc32(name.encode(), sum_so_far))
    return sum_so_far


def _moments(learner: Learner) -> dict[str, Tensor]:
    """What the optimisers remember of each parameter: SGD's momentum, Adam's two moments and its count of steps."""
    return {
        f"optimizer/{name}/{key}": buffer.detach().cpu().contiguous()
        for name, parameter, optimizer in _learning(learner)
        for key, buffer in optimizer.state.get(parameter, {}).items()
        if isinstance(buffer, Tensor)
    }


def _learning(learner: Learner) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Every parameter that learns, its name, and its optimiser."""
    names = {parameter: name for name, parameter in learner.model.named_parameters()}
    for optimizer in learner.optimizers.values():
        for parameter in optimizer.param_groups[0]["params"]:
            yield names[parameter], parameter, optimizer
