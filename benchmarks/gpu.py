"""Everything that needs a GPU, smallest first; each part's result is written as soon as it is done.

    python -m benchmarks.gpu [OUTPUT.json] [--minutes 9.5] [--device cuda]
    python -m benchmarks.gpu --train MINUTES [--data FOLDER_OR_NPZ] [--runs FOLDER] [--device cuda]

The first uses the bundled digits, so it needs no data; a part that fails is recorded, and the others still run.

The second only trains ``cifar_resnet20`` from scratch with the recipe ``cifar10``, first with Learn2Perturb and then
with plain PGD, and checks both; see benchmarks/train.py. It stops on time (MINUTES after the libraries are loaded,
which takes seconds; it always does some steps), and the same call resumes it: keep ``--runs``, which holds everything
needed and, at the end, DATE-train.json. For a machine that returns few files: ``tar cf runs.tar -C FOLDER .``
afterwards, and ``tar xf runs.tar -C FOLDER`` before the next call.

``--device cpu`` tests either; the second, in half a minute on one core, with

    --data digits --preset quick --images 16 --set train.epochs=3 --set train.warmup_epochs=1
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import perturbify
from benchmarks import noise, train, train_step
from perturbify import data, recipe, zoo
from perturbify.checks import PRESETS, CheckPlan
from perturbify.checks.run import machine
from perturbify.training.launch import choose_device, load_data

FAMILIES = ("resnet18", "efficientnet_b0", "convnext_atto", "torchvision:densenet121", "cifar_resnet20")

Part = Callable[[str], dict[str, Any]]


def parity(device: str) -> dict[str, Any]:
    """``wrap`` on the device, which compares outputs bit for bit; and a half-precision pass with the noise on."""
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


def parts(device: str) -> dict[str, Part]:
    """All parts by name; each size of the training step is a part, so that time can run out between them."""
    cases = train_step.CPU if device == "cpu" else train_step.CUDA
    steps = {f"train_step, {case.network}, batch {case.batch}": partial(train_step.measure, case) for case in cases}
    kernel = {"values of the noise": noise.values, "noise": noise.measured}
    return {"parity": parity, **kernel, **steps, "main_job": main_job}


def surroundings(device: torch.device) -> dict[str, Any]:
    """The environment of a measurement: machine, versions, and the GPU if there is one."""
    libraries = ("perturbify", "torchvision", "timm", "numpy", "triton")
    return {
        "machine": machine(device) | {"system": platform.platform()},
        "versions": {name: _version(name) for name in libraries},
        "gpu": _gpu(device) if device.type == "cuda" else None,
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str | None:
    """The driver's version, if nvidia-smi is available."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except ImportError:  # not installed, like perturbify itself when run from its source tree
        return None


def measure(output: Path, device: torch.device, began: float, minutes: float) -> bool:
    """Runs the parts and writes one JSON file.

    Args:
        output: The file; it always holds what is done so far.
        device: Where to measure.
        began: Start, by ``time.monotonic()``.
        minutes: How long after that a part may start.

    Returns:
        Whether no part failed.
    """
    found: dict[str, Any] = surroundings(device) | {"failed": [], "not begun for want of time": []}
    for name, part in parts(device.type).items():
        if time.monotonic() - began >= 60 * minutes:
            found["not begun for want of time"].append(name)
        else:
            try:
                found[name] = part(device.type)
            except Exception:  # machine time is short: measure whatever else can be
                found[name] = {"error": traceback.format_exc()}
                found["failed"].append(name)
            print(f"{name}: {found[name]}", flush=True)
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"failed: {found['failed']}; not started for lack of time: {found['not begun for want of time']}", flush=True)
    return not found["failed"]


def job(given: argparse.Namespace, device: torch.device) -> train.Job:
    """The job that the arguments of ``--train`` describe."""
    settings = recipe.load("cifar10", given.set)
    if given.data is not None:
        settings = replace(settings, data=replace(settings.data, name=given.data))
    images = load_data(settings)
    settings = replace(settings, data=replace(settings.data, image_size=images.input_size[1]))
    adversary = {name: getattr(settings.check, name) for name in ("epsilon", "step_size", "steps")}
    plan = replace(PRESETS[given.preset], **adversary, at_once=8 if device.type == "cuda" else 1)
    if given.images is not None:
        plan = replace(plan, images=given.images, preset=f"{given.preset}, changed")
    return train.Job(settings, images, plan, given.runs, device)


def main(arguments: list[str] | None = None) -> int:
    """Reads the arguments and runs one of the two; returns the exit status."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", help="default: benchmarks/results/DATE-gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.5, help="start no part later (default: 9.5)")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="only train, for this long")
    training = parser.add_argument_group("with --train")
    training.add_argument("--data", metavar="FOLDER_OR_NPZ", help="default: CIFAR-10, where perturbify looks for it")
    training.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="default: runs/gpu")
    training.add_argument("--preset", choices=PRESETS, default="standard", help="of the checks (default: standard)")
    training.add_argument("--images", type=int, help="of the checks; default: the preset's")
    training.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    today = datetime.datetime.now(datetime.UTC).date()
    if given.train is None:
        output = given.output or Path(f"benchmarks/results/{today}-gpu.json")
        return 0 if measure(output, device, began, given.minutes) else 1
    output = given.output or given.runs / f"{today}-train.json"
    train.run_slice(job(given, device), began, given.train, output, surroundings(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
