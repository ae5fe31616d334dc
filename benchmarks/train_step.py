"""A training step beside the rival's: ``python -m benchmarks.train_step [OUTPUT.json] [--device cpu] [--threads N]``.

The rival (benchmarks/rival.py) is the paper's step by hand; ours is a joint step of :class:`Learner`, in float32 like
the rival's, and with ``speed.precision = "bfloat16"``. In turns, in one process; ratios to the rival's step of the same
round, and medians over :data:`ROUNDS` after one step each for warmth. The share of noise is what a step with the noise
off takes less. Memory: peak over two steps, beyond what was there before, of ours, of the rival, and of our step on the
same network without noise modules; on the CPU each in a process of its own, by its resident memory.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.rival import Rival, with_noise
from perturbify import data, methods, recipe, zoo
from perturbify.checks.run import machine
from perturbify.perturbation import perturbations
from perturbify.training.phases import JOINT_STEP, PLAIN
from perturbify.training.prepare import prepare
from perturbify.training.step import Learner

ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """A network, its batch, and the side of its images."""

    network: str
    batch: int
    size: int = 32
    classes: int = 10


CPU = (Case("cifar_resnet20", 128), Case("cifar_resnet18", 32), Case("timm:resnet50", 4, 224, 1000))
CUDA = (
    *(Case("cifar_resnet20", n) for n in (128, 512, 1024)),
    *(Case("cifar_resnet18", n) for n in (128, 512)),
    Case("timm:resnet50", 32, 224, 1000),
)

Step = Callable[[], object]


def contender(kind: str, case: Case, device: str) -> tuple[nn.Module, Step]:
    """The network and the step of ``"ours"``, ``"bfloat16"``, ``"plain"`` (ours without noise) or ``"rival"``."""
    torch.manual_seed(0)
    x = torch.rand(case.batch, 3, case.size, case.size, device=device)
    y = torch.randint(case.classes, (case.batch,), device=device)
    model = zoo.create(case.network, num_classes=case.classes)
    if kind == "rival":
        rival = Rival(with_noise(model, x[:2].cpu()).to(device))
        return rival.model, lambda: rival.step(x, y)
    changes = ["optimizer.lr=0.01", "theta_optimizer.lr=0.01"]
    precision = ["speed.precision=bfloat16"] if kind == "bfloat16" else []
    settings = recipe.load("cifar10", changes + precision)
    method = methods.get("vanilla" if kind == "plain" else "learn2perturb")
    network = prepare(model, settings, _like(case), method).to(device)
    learner = Learner(network.to(memory_format=torch.channels_last), settings, method)  # type: ignore[call-overload]
    learner.set_epoch(20)
    network.train()
    x = x.contiguous(memory_format=torch.channels_last)
    return network, lambda: learner.step(x, y, PLAIN if kind == "plain" else JOINT_STEP, 20)


def _like(case: Case) -> data.Data:
    """A dataset of the right shape, of which no image is used."""
    digits = data.load("digits", image_size=case.size)
    classes = tuple(map(str, range(case.classes)))
    return replace(digits, classes=classes, input_size=(3, case.size, case.size), mean=(0.5,) * 3, std=(0.25,) * 3)


def measure(case: Case, device: str) -> dict[str, Any]:
    """Medians and ratios of one case."""
    ours, our_step = contender("ours", case, device)
    rival, rival_step = contender("rival", case, device)
    runs: dict[str, Step] = {
        "ours": our_step,
        "ours, bfloat16": contender("bfloat16", case, device)[1],
        "rival": rival_step,
        "ours, noise off": _off([p for _, p in perturbations(ours)], our_step),
        "rival, noise off": _off([m for m in rival.modules() if hasattr(m, "theta")], rival_step),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    return {
        "network": case.network,
        "batch": case.batch,
        "size": case.size,
        "seconds": median,
        "over rival": {
            name: statistics.median(ours / rival for ours, rival in zip(seconds[name], seconds["rival"], strict=True))
            for name in ("ours", "ours, bfloat16")
        },
        "images a second": {name: case.batch / median[name] for name in ("ours", "ours, bfloat16", "rival")},
        "share of noise": {n: 1 - median[f"{n}, noise off"] / median[n] for n in ("ours", "rival")},
        "peak bytes": {kind: peak(kind, case, device) for kind in ("ours", "plain", "rival")},
    }


def _off(noises: list[Any], run: Step) -> Step:
    def quietly() -> None:
        for module in noises:
            module.enabled = False
        run()
        for module in noises:
            module.enabled = True

    return quietly


def peak(kind: str, case: Case, device: str) -> int:
    """Memory that steps take at their peak, beyond what stood there before the first."""
    if device == "cpu":
        code = f"from benchmarks import train_step as t; print(t.peak_here({kind!r}, t.{case!r}))"
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    _, step = contender(kind, case, device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        step()
    return torch.cuda.max_memory_allocated() - before


def peak_here(kind: str, case: Case) -> int:
    """Growth of this process's resident memory over the first two steps (Linux)."""
    torch.set_num_threads(1)
    _, step = contender(kind, case, "cpu")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    for _ in range(2):
        step()
    return _resident("VmHWM") - before


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def measured(device: str) -> dict[str, Any]:
    """All cases, as one JSON value."""
    cases = CPU if device == "cpu" else CUDA
    return {"machine": machine(torch.device(device)), "cases": [measure(case, device) for case in cases]}


def main() -> None:
    """Reads the arguments, measures, and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = measured(given.device)
    for case in found["cases"]:
        print(json.dumps(case))
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
