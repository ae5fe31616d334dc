"""What Learn2Perturb gains, in runs that fit two cores: ``python -m benchmarks.evidence SUITE [NAME ...]``.

``digits``: the full schedule of 350 epochs on the 8×8 digits with a ResNet-8, with θ's learning rate scaled to
the full number of θ-steps. ``change``: ablations of it, one change at a time, under fewer attacks. ``cifar``: a
ResNet-20 from public weights on CIFAR-10 images (``--data F --weights F``), with equally many W-steps for every method.

Each run has its folder under ``--runs`` and resumes where it stopped; once it is trained and checked, its JSON is
written to benchmarks/results/evidence: recipe, θ and accuracies of every epoch, and the report. Concurrent calls share
the work: each skips what another process is running. One thread, on the CPU unless ``--device`` says otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import perturbify
from perturbify import data as datasets
from perturbify import recipe, zoo
from perturbify.checks import PRESETS, CheckPlan
from perturbify.checks.run import machine
from perturbify.errors import PerturbifyError
from perturbify.files import write_text
from perturbify.training.folder import RunFolder
from perturbify.training.seeds import fresh_weights
from perturbify.zoo.cifar_resnet import cifar_resnet

RESULTS = Path(__file__).parents[1] / "results" / "evidence"
METHODS = ("vanilla", "learn2perturb", "learn2perturb-r", "pni")
WARM_UP = {"learn2perturb": 20, "learn2perturb-r": 20}
WHOLE = {
    "train.epochs": 350,
    "train.batch_size": 128,
    "train.save_minutes": 2,
    "optimizer.milestones": [150, 250],
    "theta_optimizer.milestones": [150, 250],
}
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "norm": {"perturb.site": "norm"},
    "addition": {"perturb.site": "addition"},
    "batch": {"perturb.draw_per": "batch"},
    "start-1": {"perturb.theta_init": 1.0},
    "start-0.3x": {"perturb.theta_init": "0.3x"},
    "gamma-0": {"train.gamma": 0.0},
}


@dataclass(frozen=True)
class Suite:
    """Runs on one network and dataset.

    Attributes:
        recipe: Their common recipe.
        changes: Changes to the recipe for all runs.
        runs: Changes for each run, by name.
        preset: Preset of the checks.
        plan: Changes to the preset.
        brings: Whether images and weights must be passed.
    """

    recipe: str
    changes: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    preset: str
    plan: Mapping[str, Any] = field(default_factory=dict)
    brings: bool = False


def _of(method: str, **more: Any) -> dict[str, Any]:
    return {"method": method, "train.warmup_epochs": WARM_UP.get(method, 0), **more}


SUITES = {
    "digits": Suite("digits", WHOLE, {method: _of(method) for method in METHODS}, "standard"),
    "change": Suite("digits", WHOLE, {name: _of("learn2perturb") | dict(c) for name, c in CHANGES.items()}, "quick"),
    "cifar": Suite(
        "cifar10_short",
        {"speed.compile": "off"},  # on a GPU it would take as long as the run
        {method: {"method": method} for method in METHODS[:3]},
        "quick",
        {"images": 1017, "batch_size": 1017, "attacks": ("fgsm", "pgd", "margin", "eot", "twin"), "eot_draws": 20},
        brings=True,
    ),
}


def network(seed: int, weights: Path | None) -> nn.Module:
    """A ResNet-8 with fresh weights from a seed, or a ResNet-20 with the given weights."""
    with fresh_weights(seed):
        return cifar_resnet(8) if weights is None else zoo.create("cifar_resnet20", weights=weights)


def examine(suite: str, name: str, seed: int, given: argparse.Namespace) -> bool:
    """Trains and checks one run, unless done or running elsewhere; returns whether it is done now."""
    output: Path = given.output / f"{suite}-{name}-{seed}.json"
    if output.is_file():
        return True
    what = SUITES[suite]
    folder = RunFolder(given.runs / suite / f"{name}-{seed}")
    changes = {**what.changes, **what.runs[name], "seed": seed}
    if what.brings:
        changes["data.name"] = str(given.data)
    settings = recipe.load(what.recipe, changes)
    images = datasets.load(settings.data.name)
    print(f"{output.stem}: starts", flush=True)
    model = network(seed, given.weights)
    try:
        if folder.can_resume:
            result = perturbify.resume(folder.path, data=images, model=model, device=given.device)
        else:
            result = perturbify.finetune(model, settings, folder.path, data=images, device=given.device, force=True)
    except PerturbifyError as error:
        if "process" not in error.message:
            raise
        print(f"{output.stem}: {error.message}", flush=True)
        return False
    adversary = {key: getattr(settings.check, key) for key in ("epsilon", "step_size", "steps", "images")}
    plan: CheckPlan = replace(PRESETS[what.preset], **{**adversary, **what.plan})
    report = perturbify.check(result.model, images, plan, name=output.stem, folder=folder.path)
    values = report.to_dict()
    found = {
        "suite": suite,
        "name": name,
        "seed": seed,
        "date": f"{datetime.datetime.now(datetime.UTC).date()}",
        "machine": machine(torch.device(given.device)),
        "recipe": folder.recipe.read_text(encoding="utf-8"),
        "W-steps": sum(n for e in result.metrics for phase, n in e["steps"].items() if phase != "θ-step"),
        "seconds of training": round(sum(e["seconds"] for e in result.metrics)),
        "epochs": [_epoch(e) for e in result.metrics],
        "report": {key: value for key, value in values.items() if key != "examples"},
    }
    write_text(output, json.dumps(found, ensure_ascii=False) + "\n")
    print(f"{output.stem}: {values['verdict']}, {report.headline.worst}", flush=True)
    return True


def _epoch(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics kept of an epoch: accuracies, and θ by site, absolute and relative to the activation."""
    theta = metrics["theta"]
    kept: dict[str, Any] = {key: round(metrics[key], 4) for key in ("clean_accuracy", "adversarial_accuracy")}
    if theta is None:
        return kept
    kept["theta"] = {key: round(theta[key], 4) for key in ("mean", "min", "max")}
    for key in ("sites", "relative"):
        kept[key] = {site: None if value is None else round(value, 4) for site, value in theta[key].items()}
    return kept


def main() -> None:
    """Reads the arguments and runs the suite, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="for cifar: an .npz of CIFAR-10's images")
    parser.add_argument("--weights", type=Path, help="for cifar: weights of cifar_resnet20")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if SUITES[given.suite].brings != (given.data is not None) or (given.data is None) != (given.weights is None):
        parser.error("--data and --weights are for the suite cifar, which needs both")
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for name in given.names or SUITES[given.suite].runs:
            examine(given.suite, name, seed, given)


if __name__ == "__main__":
    main()
