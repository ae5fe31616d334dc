"""The state a run resumes from: one safetensors file, apart from the checkpoint, without pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perturbify import checkpoint
from perturbify.errors import CheckpointError
from perturbify.header import Header
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


def save(path: Path, learner: Learner, header: Header, position: Position) -> None:
    """Writes the state in one move: network, momenta, position.

    Raises:
        PerturbifyError: The file cannot be written; the one before is untouched.
    """
    tensors, aliases = checkpoint.unique_tensors(learner.model.state_dict())
    everything = {f"model/{k}": v for k, v in tensors.items()} | _momenta(learner)
    about = {
        "header": replace(header, aliases=aliases).to_json(),
        "position": asdict(position),
        "frozen": [n for n, p in learner.model.named_parameters() if not p.requires_grad],
    }
    checkpoint.write_tensors(path, everything, {KEY: json.dumps(about)})


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
        weights = {k.removeprefix("model/"): v for k, v in self.tensors.items() if k.startswith("model/")}
        checkpoint.load_tensors(learner.model, weights, self.header, self.path)
        for name, parameter, optimizer in _learning(learner):
            buffer = self.tensors.get(f"momentum/{name}")
            if buffer is not None:
                # In the parameter's memory layout, as the optimiser would have made it.
                optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)


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
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not the state of a run.", "Give --resume the run's folder.") from error
    return Saved(path, header, position, frozen, tensors)


def _momenta(learner: Learner) -> dict[str, Tensor]:
    momenta: dict[str, Tensor] = {}
    for name, parameter, optimizer in _learning(learner):
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if isinstance(buffer, Tensor):
            momenta[f"momentum/{name}"] = buffer.detach().cpu().contiguous()
    return momenta


def _learning(learner: Learner) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Every parameter that learns, its name, and its optimiser."""
    names = {parameter: name for name, parameter in learner.model.named_parameters()}
    for optimizer in learner.optimizers.values():
        for parameter in optimizer.param_groups[0]["params"]:
            yield names[parameter], parameter, optimizer
