"""The noise by itself: ``python -m benchmarks.noise [OUTPUT.json] [--device cpu] [--threads N]``.

One forward of a :class:`Perturbation` beside the naive ``x + theta * randn_like(x)``, ``addcmul``, drawing alone, and a
copy of the same bytes. In turns, in one process; medians of :data:`ROUNDS` after three for warmth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from perturbify.checks.run import machine
from perturbify.perturbation import Perturbation

ROUNDS = 15
SHAPES = (
    (128, 16, 32, 32),  # ResNet-20, first stage
    (128, 64, 8, 8),  # ResNet-20, last stage
    (8, 64, 112, 112),  # ResNet-18 at 224, stem
    (8, 256, 14, 14),  # ResNet-18 at 224, third stage
)


def measure(shape: tuple[int, ...], device: str, memory_format: torch.memory_format) -> dict[str, Any]:
    """Medians and ratios for feature maps of one shape."""
    x = torch.rand(shape, device=device).contiguous(memory_format=memory_format)
    perturb = Perturbation(shape[1:], device=device)
    theta = perturb.theta.detach()
    copied = torch.empty_like(x)
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: perturb(x),
        "naive": lambda: x + theta * torch.randn_like(x),
        "addcmul": lambda: torch.addcmul(x, theta, torch.randn_like(x)),
        "draw": lambda: torch.randn_like(x),
        "copy": lambda: copied.copy_(x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for round_ in range(ROUNDS + 3):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if device != "cpu":
                    torch.cuda.synchronize()
                if round_ >= 3:
                    seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    return {
        "shape": shape,
        "memory format": str(memory_format).removeprefix("torch."),
        "seconds": median,
        "ours over naive": median["ours"] / median["naive"],
        "ours over copy": median["ours"] / median["copy"],
        "bytes a second": {name: 2 * x.numel() * x.element_size() / median[name] for name in ("ours", "copy")},
    }


def measured(device: str) -> dict[str, Any]:
    """All shapes in both memory formats, as one JSON value."""
    formats = (torch.contiguous_format, torch.channels_last)
    cases = [measure(shape, device, f) for shape in SHAPES for f in formats]
    return {"machine": machine(torch.device(device)), "cases": cases}


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
