"""PGD-7, compared with a bare loop and with other libraries: ``python -m benchmarks.attacks [FILE.json]``.

All attack the same small network on the same images, in one process and on one thread, interleaved, in a new order each
round. The result is the median over the rounds of the ratio of each one's time to the bare loop's in the same round.
Only this benchmark needs the libraries: ``pip install foolbox torchattacks adversarial-robustness-toolbox``, each
optional. torchattacks needs an old requests; ``--no-deps`` keeps yours.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbify import zoo
from perturbify.attacks import Pgd, pgd
from perturbify.checks.run import machine

EPSILON, STEP, STEPS, ROUNDS, BATCH = 8 / 255, 2 / 255, 7, 20, 64

Run = Callable[[], object]


def bare(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A careful hand-written loop; the caller has frozen the weights and set eval mode."""
    low, high = (x - EPSILON).clamp(min=0), (x + EPSILON).clamp(max=1)
    adversarial = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for _ in range(STEPS):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adversarial), y, reduction="sum"), adversarial)
        adversarial = torch.clamp(adversarial.detach() + STEP * gradient.sign(), low, high)
    return adversarial


def contenders(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Run]:
    """Ours, the bare loop, and the installed libraries."""
    attack = Pgd(EPSILON, STEP, STEPS)
    runs: dict[str, Run] = {"bare loop": lambda: bare(model, x, y), "perturbify": lambda: pgd(model, x, y, attack)}
    for name, make in {
        "foolbox": _foolbox,
        "torchattacks": _torchattacks,
        "adversarial-robustness-toolbox": _art,
    }.items():
        try:
            runs[f"{name} {version(name)}"] = make(model, x, y)
        except ImportError as error:
            print(f"without {name}: {error}", flush=True)
    return runs


def _foolbox(model: nn.Module, x: Tensor, y: Tensor) -> Run:
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    return lambda: attack(wrapped, x, y, epsilons=EPSILON)


def _torchattacks(model: nn.Module, x: Tensor, y: Tensor) -> Run:
    import torchattacks

    attack = torchattacks.PGD(model, eps=EPSILON, alpha=STEP, steps=STEPS)
    return lambda: attack(x, y)


def _art(model: nn.Module, x: Tensor, y: Tensor) -> Run:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(x.shape[1:])
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu")
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=EPSILON, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=len(x), verbose=False
    )
    images, labels = x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]
    return lambda: attack.generate(images, labels)


def measure(*, frozen: bool) -> dict[str, list[float]]:
    """Seconds for each contender, round by round."""
    torch.manual_seed(0)
    model = zoo.create("cifar_resnet20").eval().requires_grad_(not frozen)
    x, y = torch.rand(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    runs = contenders(model, x, y)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for round_ in range(ROUNDS + 1):
        for name in order.sample([*runs], len(runs)):  # each run affects memory and clock for the next
            started = time.perf_counter()
            runs[name]()
            if round_:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main(output: Path | None) -> None:
    """Measures with the weights frozen by the caller, and as a user would call each."""
    torch.set_num_threads(1)
    found: dict[str, object] = {
        "machine": machine(torch.device("cpu")),
        "batch": BATCH,
        "steps": STEPS,
        "rounds": ROUNDS,
    }
    for setting in ("weights frozen", "weights not frozen"):
        seconds = measure(frozen=setting == "weights frozen")
        base = seconds["bare loop"]
        ratios = {
            name: round(statistics.median(s / b for s, b in zip(times, base, strict=True)), 3)
            for name, times in seconds.items()
        }
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        found[setting] = {"median seconds": medians, "ratio to the bare loop": ratios, "seconds": seconds}
        print(setting, *(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()), sep="\n  ", flush=True)
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the libraries
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
