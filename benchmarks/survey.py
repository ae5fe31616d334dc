"""One small model of every timm family and 26 of torchvision: does wrap reach every convolution call?

    python -m benchmarks.survey OUTPUT.json [NAME ...]

The calls are counted by a dispatch mode below autograd, independently of the surgery, in one eval-mode forward of the
source. ``wrap`` itself compares outputs bit for bit in both modes, at two batch sizes. Takes about half an hour on one
core; results are written after every model.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import perturbify
from perturbify import zoo
from perturbify.checks.liveness import ConvolutionCount
from perturbify.checks.suite import machine

LARGEST = 60_000_000
SMALL = ("test_", "nano", "atto", "femto", "pico", "tiny", "_xxs", "_xs", "_s0", "_t0", "_050", "b0")
TORCHVISION = (
    *("resnet18", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "googlenet", "inception_v3", "swin_t", "swin_v2_t"),
    *("vit_b_32", "maxvit_t", "vgg11", "alexnet", "fcn_resnet50", "deeplabv3_mobilenet_v3_large"),
    *("lraspp_mobilenet_v3_large", "r3d_18", "s3d", "mvit_v1_b", "swin3d_t", "r2plus1d_18", "mc3_18"),
)
SIZES = {
    "inception_v3": (3, 299, 299),
    "r3d_18": (3, 8, 56, 56),
    "r2plus1d_18": (3, 8, 56, 56),
    "mc3_18": (3, 8, 56, 56),
    "s3d": (3, 16, 224, 224),
    "mvit_v1_b": (3, 16, 224, 224),
    "swin3d_t": (3, 8, 64, 64),
}


def smallest_of_each_family() -> Iterator[str]:
    """A small model of each of timm's families, by name and then by parameters; large families are left out."""
    for family in sorted(timm.list_modules()):
        names = timm.list_models(module=family)
        likely = sorted(names, key=lambda n: (not any(s in n for s in SMALL), len(n)))[:4]
        sizes = {}
        for name in likely:
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
        smallest = min(sizes, key=lambda n: sizes[n])
        if sizes[smallest] < LARGEST:
            yield f"timm:{smallest}"


def examine(name: str) -> dict[str, Any]:
    """Wraps one model and compares its sites with the calls it makes."""
    started = time.perf_counter()
    row: dict[str, Any] = {"name": name}
    try:
        torch.manual_seed(0)
        model = zoo.create(name)
        size = SIZES.get(name.partition(":")[2]) or zoo.input_size(model) or (3, 224, 224)
        x = torch.rand(2, *size)
        plan = perturbify.wrap(model, example_input=x).surgery.plan
        counted = count(model, x)
        evaluated = [s for s in (*plan.sites, *plan.skipped) if s.modes != "train"]
        row |= {
            "calls": counted,
            "fx": sum(s.way == "fx" for s in plan.sites if s.modes != "train"),
            "hook": sum(s.way == "hook" for s in plan.sites if s.modes != "train"),
            "skipped": sum(s.modes != "train" for s in plan.skipped),
            "complete": len(evaluated) == counted,
            "not_entered": plan.opaque,
        }
    except Exception as error:
        row |= {"complete": False, "error": f"{type(error).__name__}: {error}"[:300]}
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def count(model: nn.Module, x: Tensor) -> int:
    """Convolution calls of one eval-mode forward."""
    with torch.no_grad(), ConvolutionCount() as counter:
        model.eval()(x)
    return counter.total


def main(output: Path, names: list[str]) -> None:
    """Examines the models and writes one JSON file."""
    rows: list[dict[str, Any]] = []
    about = {"machine": machine(torch.device("cpu")), "timm": timm.__version__}
    for name in names or [*smallest_of_each_family(), *(f"torchvision:{n}" for n in TORCHVISION)]:
        rows.append(examine(name))
        print(rows[-1], flush=True)
        output.write_text(json.dumps(about | {"models": rows}, indent=1) + "\n", encoding="utf-8")
    complete = sum(r["complete"] for r in rows)
    print(f"{complete} of {len(rows)} models complete")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2:])
