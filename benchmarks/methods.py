"""All eight defences on one network, equal budgets: ``python -m benchmarks.methods OUTPUT.json --data F --weights F``.

Trains ``cifar_resnet20`` from given weights with ``cifar10_short`` and :data:`CHANGES`, once for each method with its
own noise and penalty, and once for each of :data:`VARIANTS`, each in a run folder under ``--runs``; it resumes where it
stopped. Then every network is attacked on the test images with FGSM, PGD-7 and EOT-PGD-7 with :data:`DRAWS` independent
draws per step, and scored on fresh answers, predicted as its method does; and with PGD-7 on the same weights without
the noise. Some also face :data:`LONG`, on :data:`FEW` images. Differences from ``vanilla`` are paired, under the
strongest attack on each with the noise on. One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import perturbify
from perturbify import data as datasets
from perturbify import methods, recipe, zoo
from perturbify.attacks import Pgd, randomness
from perturbify.checks.criteria import difference
from perturbify.checks.evaluate import seed_of
from perturbify.checks.latency import draws_of_an_answer
from perturbify.checks.results import Answers, Figure
from perturbify.checks.run import machine
from perturbify.checks.scoring import score
from perturbify.checks.statistics import Right
from perturbify.data import Split
from perturbify.generators import seeded
from perturbify.methods.prediction import predictor
from perturbify.spread import relative_noise
from perturbify.training import finetune, resume
from perturbify.training.folder import RunFolder

CHANGES = {
    "train.epochs": 4,
    "optimizer.milestones": [3],
    "theta_optimizer.milestones": [3],
    "speed.precision": "bfloat16",
}
VARIANTS = {
    "learn2perturb-large": {"method": "learn2perturb", "perturb.theta_init": 1.0},
    "learn2perturb-fast": {"method": "learn2perturb", "theta_optimizer.lr": 3.0},
}
"""Learn2Perturb with more noise, and with a θ that learns as much per epoch as usually in thirty."""
SILENT = "PGD-7, noise off"
EPSILON, STEP, STEPS, DRAWS, AT_ONCE, BATCH = 8 / 255, 0.01, 7, 20, 4, 128
LONG = Pgd(EPSILON, STEP, 20, draws=50)
LONGER = ("vanilla", "learn2perturb", "pni", "adv-bnn", *VARIANTS)
FEW = 128
"""Images that :data:`LONG` attacks."""
SCORING = {1: 10, 50: 2}
"""Answers per image for scoring, by the number of draws per answer."""


def train(name: str, arguments: argparse.Namespace) -> RunFolder:
    """A finished run of a method or a variant."""
    folder = RunFolder(arguments.runs / name)
    if folder.model.is_file():
        return folder
    if folder.state.is_file():
        return resume(folder.path).folder
    changes = VARIANTS.get(name, {"method": name})
    settings = recipe.load("cifar10_short", {**changes, "data.name": str(arguments.data), **CHANGES})
    model = zoo.create(settings.model, num_classes=10, weights=arguments.weights)
    return finetune(model, settings, folder.path).folder


def attack(model: nn.Module, images: Split, name: str) -> dict[str, Any]:
    """Accuracies under each attack, and per-image answers under the strongest."""
    kind = randomness(model, next(images.batches(2))[0])
    answers = predictor(model)
    scoring = 1 if kind == "none" else SCORING[draws_of_an_answer(model)]
    at_once = AT_ONCE if kind == "fresh" else 1
    pgd = Pgd(EPSILON, STEP, STEPS)
    attacks: dict[str, Pgd | None] = {"clean": None, "FGSM": Pgd(EPSILON, EPSILON, 1, random_start=False), "PGD-7": pgd}
    if kind != "none":
        attacks["EOT-PGD-7"] = Pgd(EPSILON, STEP, STEPS, draws=DRAWS, at_once=at_once)
        attacks[SILENT] = pgd
    figures: dict[str, Any] = {}
    right: dict[str, Right] = {}
    for key, one in attacks.items():
        started = time.perf_counter()
        if key == SILENT:
            with perturbify.noise(model, enabled=False):
                right[key] = survived(model, model, one, images, (name, key), 1)
        else:
            right[key] = survived(model, answers, one, images, (name, key), scoring)
        figures[key] = measured(right[key], shared=kind == "weights" and key != SILENT)
        print(f"{name}: {key} {figures[key]['accuracy']:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    strongest = min((k for k in right if k not in ("clean", SILENT)), key=lambda k: right[k].mean())
    return {
        "noise": kind,
        "draws an answer": draws_of_an_answer(model),
        "answers that score": scoring,
        "figures": figures,
        "strongest": strongest,
        "right": asdict(Answers.of(right[strongest])),
    }


def measured(right: Right, *, shared: bool) -> dict[str, Any]:
    """An accuracy and its interval, as JSON values; ``shared``: the images of a batch share their draws."""
    figure = Figure.of(right, shared=shared)
    return {"accuracy": figure.value, "interval": figure.interval}


def attack_longer(model: nn.Module, few: Split, name: str) -> dict[str, Any]:
    """Accuracy under :data:`LONG` on a few images; a network without noise gets the same steps without draws."""
    kind = randomness(model, next(few.batches(2))[0])
    answers = predictor(model)
    times = 1 if kind == "none" else SCORING[draws_of_an_answer(model)]
    attack = replace(LONG, draws=1 if kind == "none" else LONG.draws, at_once=AT_ONCE if kind == "fresh" else 1)
    started = time.perf_counter()
    right = survived(model, answers, attack, few, (name, "long"), times)
    print(f"{name}: long {right.mean():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    figure = measured(right, shared=kind == "weights") | {"n": len(few)}
    return {"long": figure, "long right": asdict(Answers.of(right))}


def survived(
    model: nn.Module, answers: nn.Module, attack: Pgd | None, images: Split, seed: tuple[str, str], times: int
) -> Right:
    """For each image and answer, whether it is right after an attack on the network."""
    right = []
    for batch, (x, y) in enumerate(images.batches(BATCH)):
        with seeded(seed_of(0, *seed, batch), [x.device]):
            crafted = x if attack is None else attack.craft(model, x, y).images
        with seeded(seed_of(1, *seed, batch), [x.device]):
            right.append(score(answers, crafted, y, draws=times, queries=times).right)
    found: Right = torch.cat(right).cpu().numpy()
    return found


def test_images(arguments: argparse.Namespace, most: int) -> Split:
    """The first test images, alternating between the classes."""
    images = datasets.load(str(arguments.data)).test.interleaved()
    return images.subset(torch.arange(min(most, arguments.images, len(images))))


def examine(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and attacks one network, unless already done."""
    folder = train(name, arguments)
    found = folder.path / "examined.json"
    if not found.is_file():
        images = test_images(arguments, arguments.images)
        model = perturbify.load(folder.model)
        metrics = folder.read_metrics()
        measured = {"n": len(images)} | attack(model, images, name)
        some = next(datasets.load(str(arguments.data)).train.batches(256))[0]
        noise = relative_noise(model, some) if model.surgery.plan.sites else {}
        theta = metrics[-1]["theta"]
        about = {
            "name": name,
            "method": model.surgery.method,
            "sites": len(model.surgery.plan.sites),
            "theta": None if theta is None else {key: theta[key] for key in ("mean", "min", "max")},
            "noise over activation": {k: round(v, 4) for k, v in noise.items() if np.isfinite(v)},
            "seconds of training": round(sum(m["seconds"] for m in metrics)),
        }
        found.write_text(json.dumps(about | measured))
    result: dict[str, Any] = json.loads(found.read_text())
    return result


def examine_longer(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Attacks one network for longer, unless already done."""
    found: Path = arguments.runs / name / "longer.json"
    if not found.is_file():
        model = perturbify.load(arguments.runs / name / "model.safetensors")
        found.write_text(json.dumps(attack_longer(model, test_images(arguments, FEW), name)))
    result: dict[str, Any] = json.loads(found.read_text())
    return result


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="An .npz of CIFAR-10's images.")
    parser.add_argument("--weights", type=Path, required=True, help="Weights of cifar_resnet20.")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--images", type=int, default=1017)
    parser.add_argument("--names", nargs="+", default=[*methods.names(), *VARIANTS], help="Methods and variants.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [examine(name, arguments) for name in arguments.names]
    for row in rows:
        row |= examine_longer(row["name"], arguments) if row["name"] in LONGER else {}
    for key, less in (("right", "strongest, less vanilla's"), ("long right", "long, less vanilla's")):
        vanilla = next((Answers(**row[key]).right for row in rows if row["name"] == "vanilla"), None)
        for row in rows:
            answers = row.pop(key, None)
            if vanilla is not None and answers is not None and row["name"] != "vanilla":
                gain = difference(Answers(**answers).right, vanilla, shared=row["noise"] == "weights")
                row[less] = {"difference": gain.value, "interval": gain.interval}
    for row in rows:
        print(row["name"], {key: f"{f['accuracy']:.3f}" for key, f in row["figures"].items()})
    protocol = {"network": "cifar_resnet20", "recipe": "cifar10_short", "changes": CHANGES, "epsilon": EPSILON}
    protocol |= {
        "step": STEP,
        "steps": STEPS,
        "EOT draws": DRAWS,
        "batch": BATCH,
        "long": f"EOT-PGD-{LONG.steps}, {LONG.draws} draws",
    }
    where = machine(torch.device("cpu"))
    arguments.output.write_text(json.dumps({"machine": where, "protocol": protocol, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
