"""Everything that needs a GPU, smallest first; each part is written as soon as it is done.

    python -m benchmarks.gpu [OUTPUT.json] [--device cuda]

Takes the embedded digits, so nothing has to be brought along. ``--device cpu`` tries the script out.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import perturbify
from benchmarks import noise, train_step
from perturbify import data, recipe, zoo
from perturbify.checks import CheckPlan
from perturbify.checks.suite import machine

FAMILIES = ("resnet18", "efficientnet_b0", "convnext_atto", "torchvision:densenet121", "cifar_resnet20")


def parity(device: str) -> dict[str, Any]:
    """``wrap`` on the device, which compares outputs bit for bit; and a half-precision forward with the noise on."""
    found = {}
    for name in FAMILIES:
        model = zoo.create(name).to(device)
        x = torch.rand(2, *(zoo.input_size(model) or (3, 224, 224)), device=device)
        wrapped = perturbify.wrap(model, example_input=x).eval()
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            finite = bool(wrapped(x).isfinite().all())
        found[name] = {"sites": len(wrapped.surgery.plan.sites), "bf16_finite": finite}
    return found


def main_job(device: str) -> dict[str, Any]:
    """The digits recipe from fresh weights, and its check."""
    settings = recipe.load("digits")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = perturbify.finetune(zoo.create("cifar_resnet20"), settings, Path(folder) / "run", device=device)
        seconds = time.perf_counter() - started
        again = perturbify.resume(Path(folder) / "run", device=device)
        report = perturbify.check(result.model, data.load("digits"), CheckPlan(**asdict(settings.check)))
    same = all(torch.equal(a, b) for a, b in zip(result.model.parameters(), again.model.parameters(), strict=True))
    return {"seconds": seconds, "resume_of_finished_run_equal": same, "report": report.to_dict()}


PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "parity": parity,
    "noise": noise.measured,
    "main_job": main_job,
    "train_step": train_step.measured,
}


def main(output: Path, device: str) -> None:
    """Runs the parts and writes one JSON file."""
    found: dict[str, Any] = {"machine": machine(torch.device(device)), "cuda": torch.version.cuda}
    for name, part in PARTS.items():
        found[name] = part(device)
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {found[name]}", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    where = arguments.pop(arguments.index("--device") + 1) if "--device" in arguments else "cuda"
    names = [a for a in arguments if not a.startswith("--")]
    main(Path(names[0] if names else f"benchmarks/results/{datetime.date.today()}-gpu.json"), where)
