"""Everything that needs a GPU, smallest first; each part is written as soon as it is done.

    python -m benchmarks.gpu [OUTPUT.json] [--device cuda]

Takes the embedded digits, so nothing has to be brought along. ``--device cpu`` tries the script out.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import perturbify
from perturbify import data, methods, recipe, zoo
from perturbify.checks import CheckPlan
from perturbify.checks.suite import machine
from perturbify.training.phases import W_STEP
from perturbify.training.prepare import prepare
from perturbify.training.step import Learner

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


def step_time(device: str) -> dict[str, Any]:
    """Seconds of a W-step of ``cifar_resnet20`` with PGD-7, noise on and, as its rival, without noise modules."""
    settings = recipe.load("cifar10")
    images = torch.rand(128, 3, 32, 32, device=device)
    labels = torch.randint(0, 10, (128,), device=device)
    learners = {}
    for name in ("learn2perturb", "vanilla"):
        method = methods.get(name)
        digits = data.load("digits", image_size=32)
        network = prepare(zoo.create("cifar_resnet20"), settings, digits, method).to(device)
        learners[name] = Learner(network.to(memory_format=torch.channels_last), settings, method)
        learners[name].set_epoch(20)
        network.train()
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for round_ in range(6):
        for name, learner in learners.items():  # interleaved: clocks drift
            started = time.perf_counter()
            learner.step(images, labels, W_STEP, 20)
            if device != "cpu":
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    return {"median_seconds": medians, "noisy_over_plain": medians["learn2perturb"] / medians["vanilla"]}


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


PARTS: tuple[Callable[[str], dict[str, Any]], ...] = (parity, step_time, main_job)


def main(output: Path, device: str) -> None:
    """Runs the parts and writes one JSON file."""
    found: dict[str, Any] = {"machine": machine(torch.device(device)), "cuda": torch.version.cuda}
    for part in PARTS:
        found[part.__name__] = part(device)
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{part.__name__}: {found[part.__name__]}", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    where = arguments.pop(arguments.index("--device") + 1) if "--device" in arguments else "cuda"
    names = [a for a in arguments if not a.startswith("--")]
    main(Path(names[0] if names else f"benchmarks/results/{datetime.date.today()}-gpu.json"), where)
