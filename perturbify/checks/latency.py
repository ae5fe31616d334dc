"""How long networks take to answer, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from perturbify.attacks import frozen_eval
from perturbify.generators import seeded
from perturbify.methods.prediction import predictor
from perturbify.perturbation import noise
from perturbify.prediction import Ensemble

ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """How long one network takes to answer, on one machine.

    Attributes:
        rounds: Milliseconds per image in each round.
        images: Images in a batch.
        draws: Passes per answer: 1, or as many as the method averages.
    """

    rounds: tuple[float, ...]
    images: int
    draws: int

    @property
    def milliseconds(self) -> float:
        """Milliseconds per image: the median of the rounds."""
        return median(self.rounds)


def latencies(networks: Mapping[str, nn.Module], images: Tensor, *, rounds: int = ROUNDS) -> dict[str, Latency]:
    """Times networks as their methods predict, noise on, in eval mode.

    They take turns, so that other load on the machine affects all of them alike; a first round does not count.

    Args:
        networks: By name, all on the device of ``images``.
        images: One batch, shape (N, C, H, W).
        rounds: Counted rounds; at least 1.
    """
    found: dict[str, list[float]] = {name: [] for name in networks}
    answering = {name: predictor(network) for name, network in networks.items()}
    with ExitStack() as stack, torch.no_grad(), seeded(0, [images.device]):
        for network in networks.values():
            stack.enter_context(frozen_eval(network))
            stack.enter_context(noise(network))
        for _ in range(rounds + 1):
            for name, network in answering.items():
                found[name].append(_seconds(network, images))
    return {
        name: Latency(
            rounds=tuple(round(1000 * s / len(images), 5) for s in seconds[1:]),
            images=len(images),
            draws=draws_of_an_answer(networks[name]),
        )
        for name, seconds in found.items()
    }


def draws_of_an_answer(network: nn.Module) -> int:
    """How many draws a network's method averages for one answer; 1 for most."""
    answering = predictor(network)
    return answering.draws if isinstance(answering, Ensemble) else 1


def _seconds(network: nn.Module, images: Tensor) -> float:
    started = time.perf_counter()
    network(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started
