"""How long does the surgery take, next to torch.fx.symbolic_trace of the same model in the same run?

    python -m benchmarks.surgery OUTPUT.json

The surgery is all of ``perturbify.wrap(model, inplace=True)`` but the parity probe, which is given apart. The two take
turns; medians of :data:`REPEATS` after one run each for warmth. One thread.

Memory: the growth of the process's peak by planning and performing the surgery on a large model, over the bytes of θ.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from torch import fx

import perturbify
from perturbify.checks.suite import machine
from perturbify.surgery.example import Example
from perturbify.surgery.wrap import prepare

MODELS = ("resnet50", "efficientnet_b4", "convnext_base", "densenet121")
REPEATS = 25


def seconds(name: str) -> dict[str, Any]:
    """Times one model."""
    size = 224
    x = torch.rand(2, 3, size, size)
    theirs, ours = [], []
    for _ in range(REPEATS + 1):
        model = timm.create_model(name)
        gc.collect()
        started = time.perf_counter()
        fx.symbolic_trace(model)
        theirs.append(time.perf_counter() - started)
        gc.collect()
        started = time.perf_counter()
        prepare(model, perturbify.PerturbConfig(), Example.of(model, x)).perform(model)
        ours.append(time.perf_counter() - started)
    model = timm.create_model(name)
    started = time.perf_counter()
    perturbify.wrap(model, inplace=True, example_input=x)
    whole = time.perf_counter() - started
    rival, mine = statistics.median(theirs[1:]), statistics.median(ours[1:])
    return {
        "model": name,
        "symbolic_trace": rival,
        "surgery": mine,
        "ratio": mine / rival,
        "parity probe": whole - mine,
    }


def memory(name: str) -> dict[str, Any]:
    """Growth of the peak resident memory by a surgery on a model with its weights, in bytes, next to those of θ."""
    model = timm.create_model(name)
    x = torch.rand(2, *model.pretrained_cfg["input_size"])
    warm = timm.create_model("test_resnet")
    prepare(warm, perturbify.PerturbConfig(), Example.of(warm, torch.rand(2, 3, 64, 64))).perform(warm)
    before = _peak()
    wrapped = prepare(model, perturbify.PerturbConfig(), Example.of(model, x)).perform(model)
    grown = _peak() - before
    theta = sum(p.theta.numel() * p.theta.element_size() for _, p in perturbify.perturbations(wrapped))
    return {"model": name, "theta": theta, "peak growth": grown, "ratio": grown / theta}


def _peak() -> int:
    """Peak resident memory so far; building the model has its peak behind it, as nothing large was freed."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(output: Path) -> None:
    """Runs both and writes one JSON file."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine(torch.device("cpu")), "timm": timm.__version__}
    result["memory"] = [memory("wide_resnet101_2")]  # first: a peak only grows
    result["seconds"] = []
    for name in MODELS:
        result["seconds"].append(seconds(name))
        print(result["seconds"][-1], flush=True)
    print(result["memory"])
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
