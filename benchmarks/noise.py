"""The noise alone: ``python -m benchmarks.noise [OUTPUT.json] [--device cpu] [--threads N]``.

One forward pass of a :class:`Perturbation` compared with the naive ``x + theta * randn_like(x)``, ``addcmul``, drawing
alone, and a copy of the same bytes. Interleaved, in one process; medians of :data:`ROUNDS` rounds after three warm-up
rounds. On a GPU, :data:`CALLS` calls are timed between two events, both called from Python and replayed as a CUDA
graph, which is the time of the kernels alone; and :func:`values` tests what is drawn.
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
from scipy import stats

from perturbify.checks.run import machine
from perturbify.perturbation import Perturbation

ROUNDS = 15
CALLS = 20
SHAPES = (
    (128, 16, 32, 32),  # ResNet-20, first stage
    (128, 64, 8, 8),  # ResNet-20, last stage
    (8, 64, 112, 112),  # ResNet-18 at 224, stem
    (8, 256, 14, 14),  # ResNet-18 at 224, third stage
)
ON_A_GPU = ((1024, 16, 32, 32), (1024, 64, 8, 8), (128, 32, 16, 16), *SHAPES, (32, 256, 56, 56))

Run = Callable[[], object]


def measure(shape: tuple[int, ...], device: str, memory_format: torch.memory_format) -> dict[str, Any]:
    """Medians and ratios for feature maps of one shape."""
    x = torch.rand(shape, device=device).contiguous(memory_format=memory_format)
    perturb = Perturbation(shape[1:], device=device)
    theta = perturb.theta.detach()
    copied = torch.empty_like(x)
    runs: dict[str, Run] = {
        "ours": lambda: perturb(x),
        "naive": lambda: x + theta * torch.randn_like(x),
        "addcmul": lambda: torch.addcmul(x, theta, torch.randn_like(x)),
        "draw": lambda: torch.randn_like(x),
        "copy": lambda: copied.copy_(x),
    }
    with torch.no_grad():
        median = _medians(runs, _of_one_call if device == "cpu" else _of_a_call)
        replayed = {} if device == "cpu" else {"seconds in a CUDA graph": _medians(_captured(runs), _of_a_call)}
    return {
        "shape": shape,
        "memory format": str(memory_format).removeprefix("torch."),
        "seconds": median,
        "ours over naive": median["ours"] / median["naive"],
        "ours over copy": median["ours"] / median["copy"],
        "bytes a second": {name: 2 * x.numel() * x.element_size() / median[name] for name in ("ours", "copy")},
        **replayed,
    }


def _medians(runs: dict[str, Run], seconds_of: Callable[[Run], float]) -> dict[str, float]:
    """Interleaves the runs; the first three rounds do not count."""
    rounds = [{name: seconds_of(run) for name, run in runs.items()} for _ in range(ROUNDS + 3)]
    return {name: statistics.median(r[name] for r in rounds[3:]) for name in runs}


def _of_one_call(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _of_a_call(run: Run) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / CALLS


def _captured(runs: dict[str, Run]) -> dict[str, Run]:
    """Each run as a CUDA graph, replayed."""
    graphs: dict[str, Run] = {}
    for name, run in runs.items():
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        graphs[name] = graph.replay
    return graphs


def values(device: str) -> dict[str, Any]:
    """Tests the draws and the gradient of a :class:`Perturbation`, in each dtype and memory format.

    Kolmogorov-Smirnov p-value against N(0, 1); distance of mean and variance from 0 and 1, in standard errors;
    correlation of two images and of two calls, also in standard errors; and the relative error of θ's gradient against
    ``Σ g ε`` in float64.
    """
    found: dict[str, Any] = {}
    dtypes = (torch.float32,) if device == "cpu" else (torch.float32, torch.bfloat16, torch.float16)
    for dtype in dtypes:
        for memory in (torch.contiguous_format, torch.channels_last):
            perturb = Perturbation((16, 32, 32), theta_init=1.0, device=device)
            x = torch.zeros(128, 16, 32, 32, device=device, dtype=dtype).to(memory_format=memory)
            noisy, again = perturb(x), perturb(x)
            weights = torch.randn_like(noisy)
            (gradient,) = torch.autograd.grad((noisy * weights).sum(), perturb.theta)
            epsilon, other = (y.detach().double().cpu() for y in (noisy, again))
            exact = (weights.double().cpu() * epsilon).sum(0)
            n, flat = epsilon.numel(), epsilon.flatten()
            pairs = {"images": (epsilon[0], epsilon[1]), "calls": (epsilon, other)}
            found[f"{dtype}, {memory}".replace("torch.", "")] = {
                "p": float(stats.kstest(flat.float().numpy(), "norm").pvalue) if dtype == torch.float32 else None,
                "mean": float(flat.mean() * n**0.5),
                "variance": float((flat.var() - 1) * (n / 2) ** 0.5),
                "correlation": {k: float((a * b).mean() * a.numel() ** 0.5) for k, (a, b) in pairs.items()},
                "gradient": float((gradient.double().cpu() - exact).norm() / exact.norm()),
            }
    return found


def measured(device: str) -> dict[str, Any]:
    """All shapes in both memory formats, as one JSON value."""
    formats = (torch.contiguous_format, torch.channels_last)
    cases = [measure(shape, device, f) for shape in (SHAPES if device == "cpu" else ON_A_GPU) for f in formats]
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
