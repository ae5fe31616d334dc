"""How long does the surgery take, relative to the network's own forward pass and to torch.fx.symbolic_trace?

    python -m benchmarks.surgery OUTPUT.json

On one batch of two images, one thread, interleaved; medians of :data:`REPEATS` repeats (four times as many for forward
passes alone) after one warm-up:

- ``wrap`` with its verification, over one forward pass each in eval and train mode of the source;
- ``wrap(verify=False)``, over ``torch.fx.symbolic_trace`` of the same model;
- a forward pass of the wrapped network with its noise off, over one of the source.

Memory: growth of the process's peak during ``wrap(inplace=True, verify=False)`` on a large model, over the bytes of θ.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import fx, nn

import perturbify
from perturbify.checks.run import machine

MODELS = ("resnet50", "efficientnet_b4", "convnext_base", "densenet121")
REPEATS = 7


def seconds(name: str) -> dict[str, Any]:
    """Times one model."""
    x = torch.rand(2, 3, 224, 224)
    model = timm.create_model(name)
    wrapped = perturbify.wrap(model, example_input=x).eval()
    timed: dict[str, list[float]] = {}

    def run(what: str, do: Callable[[], Any]) -> None:
        gc.collect()
        started = time.perf_counter()
        do()
        timed.setdefault(what, []).append(time.perf_counter() - started)

    for _ in range(REPEATS + 1):
        run("eval and train forward", lambda: (_forward(model.train(), x), _forward(model.eval(), x)))
        run("wrap", lambda: perturbify.wrap(model, example_input=x))
        run("symbolic_trace", lambda: fx.symbolic_trace(model))
        run("wrap without verification", lambda: perturbify.wrap(model, example_input=x, verify=False))
    with perturbify.noise(wrapped, enabled=False):
        for _ in range(4 * REPEATS + 1):
            run("forward", lambda: _forward(model, x))
            run("forward, noise off", lambda: _forward(wrapped, x))
    medians = {what: statistics.median(found[1:]) for what, found in timed.items()}
    return {
        "model": name,
        "seconds": medians,
        "wrap over its two forwards": medians["wrap"] / medians["eval and train forward"],
        "without verification over symbolic_trace": medians["wrap without verification"] / medians["symbolic_trace"],
        "noise off over source": statistics.median(
            a / b for a, b in zip(timed["forward, noise off"][1:], timed["forward"][1:], strict=True)
        ),
    }


@torch.no_grad()
def _forward(model: nn.Module, x: torch.Tensor) -> None:
    model(x)


def memory(name: str) -> dict[str, Any]:
    """Growth of the peak resident memory during a surgery, and the size of θ, in bytes."""
    model = timm.create_model(name)
    perturbify.wrap(timm.create_model("test_resnet"), inplace=True, verify=False)
    before = _peak()
    wrapped = perturbify.wrap(model, inplace=True, verify=False)
    grown = _peak() - before
    theta = sum(p.theta.numel() * p.theta.element_size() for _, p in perturbify.perturbations(wrapped))
    return {"model": name, "theta": theta, "peak growth": grown, "ratio": grown / theta}


def _peak() -> int:
    """Peak resident memory so far; building the model freed nothing large, so the peak is current."""
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
