"""Several networks under the same adversaries on the same images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbify import escape
from perturbify.checks.criteria import difference
from perturbify.checks.estimate import Estimate
from perturbify.checks.evaluate import Progress, seed_of
from perturbify.checks.intake import count_classes, images_of
from perturbify.checks.latency import Latency, draws_of_an_answer, latencies
from perturbify.checks.plan import CheckPlan
from perturbify.checks.report import Report
from perturbify.checks.results import Figure, Result
from perturbify.checks.run import Images, check, machine
from perturbify.data import Data, Split
from perturbify.errors import CheckError, PerturbifyError
from perturbify.generators import seeded
from perturbify.perturbation import perturbations
from perturbify.ranks import ranks
from perturbify.surgery.noisy import Perturbed

SCHEMA = 2

PLAN = CheckPlan(
    attacks=("fgsm", "pgd", "margin", "eot", "twin", "sweep"), sweep=(0.25, 0.5, 1.5, 2.0), eot_draws=20, queries=(1,)
)
"""What a comparison does by default."""

TIMED = 32
"""Images in a batch whose time is taken."""

FIGURES = {
    "clean": "clean",
    "fgsm": "fgsm",
    "pgd": "pgd",
    "margin": "margin",
    "eot": "eot",
    "clean_noise_off": "twin-clean",
    "pgd_noise_off": "twin-pgd",
}
"""The main figures, by the ids of their cases."""


@dataclass(frozen=True)
class Entry:
    """One network of a comparison.

    Attributes:
        name: What it is called.
        method: Its defence; None for a network that is none of ours.
        weights: Number of parameters without θ.
        theta: Number of entries of θ.
        report: All its figures.
        latency: How long it takes to answer.
        ahead: What it is ahead of the first network in the worst case of all attacks; None for that one.
    """

    name: str
    method: str | None
    weights: int
    theta: int
    report: Report
    latency: Latency
    ahead: Figure | None = None

    @property
    def figures(self) -> dict[str, Result | None]:
        """The main figures by name; None for those that a network without noise of ours does not have."""
        return {name: self.report.result(id) for name, id in FIGURES.items()}

    @property
    def verdict(self) -> str | None:
        """``"more"`` or ``"less"`` robust than the first; ``"undecided"`` where the interval holds 0; None for it."""
        if self.ahead is None:
            return None
        low, high = self.ahead.interval
        return "more" if low > 0 else "less" if high < 0 else "undecided"

    def curve(self, line: str) -> list[tuple[float, Result]]:
        """Accuracy against ε, from the clean images on.

        Args:
            line: ``"FGSM"`` or such as ``"PGD-7"``.

        Returns:
            Pairs of ε, in pixels of [0, 1], and what was measured there, by rising ε.
        """
        points = {p.x: r for r in self.report.results for p in r.points if (p.figure, p.line) == ("epsilon", line)}
        return [(0.0, self.report.clean), *sorted(points.items(), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Comparison:
    """Several networks under the same adversaries on the same images.

    Attributes:
        plan: The adversaries.
        entries: The networks; differences are to the first.
        machine: Versions, device and threads.
    """

    plan: CheckPlan
    entries: tuple[Entry, ...]
    machine: dict[str, Any]

    @property
    def lines(self) -> tuple[str, str]:
        """The attacks with a curve over ε."""
        return "FGSM", f"PGD-{self.plan.steps}"

    @property
    def status(self) -> int:
        """Exit status: 3 where a network failed a criterion, else 0: what it takes to judge all is `check`'s."""
        return 3 if any(e.report.failures for e in self.entries) else 0

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values; docs/compare.md describes them."""
        first = self.entries[0].report
        kept = ("epsilon", "steps", "eot_draws", "draws", "batch_size", "seed")
        values = {
            "schema": SCHEMA,
            "dataset": first.dataset,
            "classes": first.classes,
            "n": first.n,
            **{key: getattr(self.plan, key) for key in kept},
            "step_size": self.plan.step,
            "machine": self.machine,
            "networks": [self._entry(e) for e in self.entries],
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def to_json(self) -> str:
        """The comparison as indented JSON."""
        return escape.json(self.to_dict()) + "\n"

    def _entry(self, entry: Entry) -> dict[str, Any]:
        return {
            "name": entry.name,
            "architecture": entry.report.architecture,
            "method": entry.method,
            "deterministic": entry.report.deterministic,
            "weights": entry.weights,
            "theta": entry.theta,
            "figures": {k: None if r is None else _figure(r) for k, r in entry.figures.items()},
            "worst_case": asdict(entry.report.headline.worst),
            "ahead": None if entry.ahead is None else asdict(entry.ahead) | {"verdict": entry.verdict},
            "curves": {
                line: [{"epsilon": epsilon} | _figure(r) for epsilon, r in entry.curve(line)] for line in self.lines
            },
            "latency": {"milliseconds": entry.latency.milliseconds} | asdict(entry.latency),
            "failures": entry.report.failures,
        }


def compare(
    networks: Mapping[str, nn.Module],
    images: Images,
    plan: CheckPlan = PLAN,
    *,
    folder: Path | None = None,
    on_start: Callable[[str, Estimate], None] | None = None,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> Comparison:
    """Runs the same adversaries on several classifiers and sets their figures side by side.

    Each network is checked by itself (:func:`perturbify.check`); adversarial images are crafted on the network that is
    scored. What is random has the same seeds for all.

    Args:
        networks: Classifiers of the same images, by name, on one device. Differences are to the first.
        images: The images, as :func:`perturbify.check` takes them.
        plan: The adversaries, ``fgsm`` and ``pgd`` among them. A network that averages draws for an answer is scored by
            as few answers as take ``draws`` of them.
        folder: An existing folder, in which each network gets one of its name for its records. What is there of the
            same comparison is not done again.
        on_start: Called with a network's name and an estimate of the time, before its first attack.
        on_progress: Called with its name after every batch.

    Raises:
        CheckError: A network does not take the images or tells other classes apart, a name is none for a folder, the
            folder holds another comparison, or this is one of several processes.
        ModelError: A network was made for images of another size.
        ValueError: There is no network, or the plan lacks an attack.
    """
    if not networks or not {"fgsm", "pgd"} <= set(plan.attacks):
        raise ValueError("a comparison takes at least one network, and the attacks fgsm and pgd")
    check_names(networks)
    with ranks() as part:
        if part.world > 1:
            raise CheckError(f"A comparison runs in one process, and this is one of {part.world}.")
    if not isinstance(images, Data | Split | str):
        images, *_ = images_of(images, plan.images)  # once: a loader that shuffles would give each network others
    x = _fitting(networks, images, plan)
    reports: dict[str, Report] = {}
    for name, network in networks.items():
        own = None if folder is None else folder / name
        if own is not None:
            own.mkdir(exist_ok=True)
        # Who averages 50 draws for an answer need not give twenty of them; by half of them the worst case is chosen.
        answers = max(min(plan.draws, 4), math.ceil(plan.draws / draws_of_an_answer(network)))
        with _naming(name):
            reports[name] = check(
                network,
                images,
                replace(plan, draws=answers),
                name=name,
                folder=own,
                on_start=on_start and partial(on_start, name),
                on_progress=on_progress and partial(on_progress, name),
            )
    times = latencies(networks, x)
    first = next(iter(reports.values()))
    entries = tuple(_entry(name, network, reports[name], times[name], first) for name, network in networks.items())
    return Comparison(plan, entries, machine(x.device))


def check_names(names: Iterable[str]) -> None:
    """Makes sure that each name can be that of a folder.

    Raises:
        CheckError: One cannot.
    """
    for name in names:
        if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise CheckError(f"No network can be called {name!r}: its records need a folder of that name.")


def _fitting(networks: Mapping[str, nn.Module], images: Images, plan: CheckPlan) -> torch.Tensor:
    """Makes sure, before any long work, that every network classifies the images; gives a batch of them."""
    split, _, classes = images_of(images, plan.images)
    device = next((p.device for network in networks.values() for p in network.parameters()), torch.device("cpu"))
    x, _ = next(split.interleaved().batches(min(TIMED, len(split))))
    x = x.to(device)
    with seeded(seed_of(plan.seed, "fitting"), [device]):
        for name, network in networks.items():
            with _naming(name):
                count_classes(network, x[:4], split, None if classes is None else len(classes))
    return x


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except PerturbifyError as error:
        raise type(error)(f"{name}: {error.message}", error.hint) from error


def _entry(name: str, network: nn.Module, report: Report, latency: Latency, first: Report) -> Entry:
    theta = sum(p.theta.numel() for _, p in perturbations(network))
    shared = report.clean.shared or first.clean.shared
    return Entry(
        name=name,
        method=network.surgery.method if isinstance(network, Perturbed) else None,
        weights=sum(p.numel() for p in network.parameters()) - theta,
        theta=theta,
        report=report,
        latency=latency,
        ahead=None if report is first else difference(report.worst, first.worst, shared=shared),
    )


def _figure(result: Result) -> dict[str, Any]:
    return {
        "attack": result.attack,
        "noise": result.noise,
        "draws": result.draws,
        "accuracy": result.accuracy,
        "interval": list(result.interval),
    }
