"""Our training step against a baseline: ``python -m benchmarks.train_step [OUTPUT.json] [--device cpu] [--threads N]``.

The baseline, or rival (benchmarks/rival.py), is the paper's step written by hand; ours is a joint step of
:class:`Trainer`, in float32 like the rival's, and with ``speed.precision = "bfloat16"``. Interleaved, in one process;
ratios to the rival's step of the same round, and medians over :data:`ROUNDS` after one warm-up step each. The share of
noise is the time saved with the noise off. Memory: peak over two steps, above the level before, for ours, the rival,
and our step on the same network without noise modules; on the CPU each in its own process, by resident memory. On a
GPU, where networks are compiled, each way to run a step is a separate contender; memory is that of the uncompiled
steps.
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
from perturbify.training.step import Trainer

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
    Case("cifar_resnet20", 128),
    Case("cifar_resnet20", 1024),
    Case("cifar_resnet18", 128),
    Case("timm:resnet50", 32, 224, 1000),
)

OURS = {
    "ours": (),
    "ours, bfloat16": ("speed.precision=bfloat16",),
    "ours, as it is": ("speed.compile=off",),
    "ours, bfloat16, CUDA graphs": ("speed.precision=bfloat16", "speed.cuda_graphs=true"),
}
"""Variants of our step; ``as it is`` means not compiled."""

Step = Callable[[], object]


def contender(kind: str, case: Case, device: str) -> tuple[nn.Module, Step]:
    """The network and step of one of :data:`OURS`, ``"plain"`` (ours, uncompiled, without noise) or ``"rival"``."""
    torch.manual_seed(0)
    x = torch.rand(case.batch, 3, case.size, case.size, device=device)
    y = torch.randint(case.classes, (case.batch,), device=device)
    model = zoo.create(case.network, num_classes=case.classes)
    if kind == "rival":
        rival = Rival(with_noise(model, x[:2].cpu()).to(device))
        return rival.model, lambda: rival.step(x, y)
    changes = ["optimizer.lr=0.01", "theta_optimizer.lr=0.01", *OURS.get(kind, OURS["ours, as it is"])]
    settings = recipe.load("cifar10", changes)
    method = methods.get("vanilla" if kind == "plain" else "learn2perturb")
    network = prepare(model, settings, _like(case), method).to(device)
    trainer = Trainer(network.to(memory_format=torch.channels_last), settings, method)  # type: ignore[call-overload]
    trainer.set_epoch(20)
    network.train()
    x = x.contiguous(memory_format=torch.channels_last)
    return network, lambda: trainer.step(x, y, PLAIN if kind == "plain" else JOINT_STEP, 20)


def _like(case: Case) -> data.Data:
    """A dataset of the right shape, whose images are not used."""
    digits = data.load("digits", image_size=case.size)
    classes = tuple(map(str, range(case.classes)))
    return replace(digits, classes=classes, input_size=(3, case.size, case.size), mean=(0.5,) * 3, std=(0.25,) * 3)


def measure(case: Case, device: str) -> dict[str, Any]:
    """Medians and ratios of one case."""
    torch._dynamo.config.recompile_limit = 32  # to dynamo, all networks share one forward
    on_cpu = device == "cpu"  # nothing is compiled there, so the noise can be switched off between two steps
    made = {kind: contender(kind, case, device) for kind in (*list(OURS)[: 2 if on_cpu else None], "rival")}
    runs: dict[str, Step] = {kind: step for kind, (_, step) in made.items()}
    if on_cpu:
        ours, rival = made["ours"][0], made["rival"][0]
        runs["ours, noise off"] = _off([p for _, p in perturbations(ours)], runs["ours"])
        runs["rival, noise off"] = _off([m for m in rival.modules() if hasattr(m, "theta")], runs["rival"])
    else:
        runs["plain"] = contender("plain", case, device)[1]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    first: dict[str, float] = {}  # includes compilation
    warm = 1 if on_cpu else 2  # compiling one in the first round makes the others recompile in the second
    for round_ in range(ROUNDS + warm):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if not on_cpu:
                torch.cuda.synchronize()
            taken = time.perf_counter() - started
            if round_ >= warm:
                seconds[name].append(taken)
            elif not round_:
                first[name] = taken
                print(f"  {name}: first step {taken:.1f} s", flush=True)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    as_it_is = "ours" if on_cpu else "ours, as it is"
    pairs = {"ours": (f"{as_it_is}, noise off" if on_cpu else "plain", as_it_is)}
    if on_cpu:
        pairs["rival"] = ("rival, noise off", "rival")
    return {
        "network": case.network,
        "batch": case.batch,
        "size": case.size,
        "seconds": median,
        "first step": first,
        "over rival": {
            name: statistics.median(ours / rival for ours, rival in zip(seconds[name], seconds["rival"], strict=True))
            for name in made
            if name != "rival"
        },
        "images a second": {name: case.batch / median[name] for name in made},
        "share of noise": {name: 1 - median[off] / median[on] for name, (off, on) in pairs.items()},
        "peak bytes": {
            kind: peak(made_of, case, device)
            for kind, made_of in (("ours", as_it_is), ("plain", "plain"), ("rival", "rival"))
        },
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
    """Peak memory of the steps, above the level before the first."""
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
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
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
