"""Several networks under the same adversaries on the same images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from perturbify.checks.bench import Progress, seed_of
from perturbify.checks.estimate import Estimate
from perturbify.checks.intake import count_classes
from perturbify.checks.latency import Latency, draws_of_an_answer, latencies
from perturbify.checks.plan import CheckPlan
from perturbify.checks.records import Records
from perturbify.checks.report import Report, Row
from perturbify.checks.rows import outcomes
from perturbify.checks.statistics import Shares, difference_interval
from perturbify.checks.suite import check, machine
from perturbify.checks.trials import Trial
from perturbify.data import Data, Split
from perturbify.errors import CheckError, PerturbifyError
from perturbify.generators import seeded
from perturbify.perturbation import perturbations
from perturbify.ranks import ranks
from perturbify.surgery.noisy import Perturbed

SCHEMA = 1

PLAN = CheckPlan(
    attacks=("fgsm", "pgd", "eot", "sweep"), sweep=(0.25, 0.5, 1.5, 2.0), eot_draws=20, draws=10, queries=(1,)
)
"""What a comparison does by default."""

TIMED = 32
"""Images in a batch whose time is taken."""


@dataclass(frozen=True)
class Difference:
    """What a network has ahead of the first, by the strongest attack on the one and on the other.

    Attributes:
        estimate: Difference of the two accuracies, in [-1, 1]; positive where this network is the more robust one.
        interval: Its 95% interval by a bootstrap over images, in pairs.
    """

    estimate: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """``"more"`` or ``"less"`` robust than the first; ``"undecided"`` where the interval holds 0."""
        if self.interval[0] > 0:
            return "more"
        return "less" if self.interval[1] < 0 else "undecided"


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
        difference: What it has ahead of the first network; None for that one.
    """

    name: str
    method: str | None
    weights: int
    theta: int
    report: Report
    latency: Latency
    difference: Difference | None = None

    @property
    def strongest(self) -> Row:
        """The attack within ε that leaves the least, with the noise as the network has it."""
        found = self.report.strongest
        assert found is not None, "the plan has attacks"
        return found

    def figures(self, plan: CheckPlan) -> dict[str, Row | None]:
        """The main figures by name; None for those that a network without noise of ours does not have."""
        attacks = {
            "clean": "clean",
            "fgsm": "FGSM",
            "pgd": f"PGD-{plan.steps}",
            "eot": f"EOT-PGD-{plan.steps}, {plan.eot_draws} draws",
        }
        found = {key: self._row(attack, self.report.clean.noise) for key, attack in attacks.items()}
        for key in ("clean", "pgd"):
            silent = None if self.report.deterministic else self._row(attacks[key], "off")
            found[f"{key}_noise_off"] = silent
        return found

    def curve(self, line: str) -> list[tuple[float, Row]]:
        """Accuracy against ε, from the clean images on.

        Args:
            line: ``"FGSM"`` or such as ``"PGD-7"``.

        Returns:
            Pairs of ε, in pixels of [0, 1], and what was measured there, by rising ε.
        """
        points = {p.x: r for r in self.report.rows for p in r.points if (p.figure, p.line) == ("epsilon", line)}
        return [(0.0, self.report.clean), *sorted(points.items())]

    def _row(self, attack: str, noise: str) -> Row | None:
        wanted = (attack, f"noise {noise}", noise)
        return next((r for r in self.report.rows if (r.attack, r.crafted_on, r.noise) == wanted), None)


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
    def failures(self) -> dict[str, list[str]]:
        """For each network whose check failed a criterion, a sentence for each."""
        return {e.name: e.report.failures for e in self.entries if e.report.failures}

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values; docs/compare.md describes them."""
        first = self.entries[0].report
        kept = ("epsilon", "step_size", "steps", "eot_draws", "draws", "batch_size", "seed")
        values = {
            "schema": SCHEMA,
            "dataset": first.dataset,
            "classes": first.classes,
            "n": first.n,
            **{key: getattr(self.plan, key) for key in kept},
            "machine": self.machine,
            "networks": [self._entry(e) for e in self.entries],
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def to_json(self) -> str:
        """The comparison as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def _entry(self, entry: Entry) -> dict[str, Any]:
        ahead = entry.difference
        return {
            "name": entry.name,
            "architecture": entry.report.architecture,
            "method": entry.method,
            "deterministic": entry.report.deterministic,
            "weights": entry.weights,
            "theta": entry.theta,
            "figures": {k: None if row is None else _figure(row) for k, row in entry.figures(self.plan).items()},
            "strongest": _figure(entry.strongest),
            "difference": None if ahead is None else asdict(ahead) | {"verdict": ahead.verdict},
            "curves": {
                line: [{"epsilon": epsilon} | _figure(row) for epsilon, row in entry.curve(line)] for line in self.lines
            },
            "latency": {"milliseconds": entry.latency.milliseconds} | asdict(entry.latency),
            "failures": entry.report.failures,
        }


def compare(
    networks: Mapping[str, nn.Module],
    data: Data | Split,
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
        data: The images; of a whole dataset the test images are taken.
        plan: The adversaries, ``fgsm`` and ``pgd`` among them. A network that averages draws for an answer is scored by
            as few answers as take ``draws`` of them.
        folder: An existing folder, in which each network gets one of its name for its records. What is there of the
            same comparison is not done again.
        on_start: Called with a network's name and an estimate of the time, before its first attack.
        on_progress: Called with its name after every batch.

    Raises:
        CheckError: A network does not take the images or tells other classes apart, a name is none for a folder, the
            folder holds another comparison, or this is one of several processes.
        ModelError: A network gives no gradient for its images, or was made for images of another size.
        ValueError: There is no network, or the plan lacks an attack.
    """
    if not networks or not {"fgsm", "pgd"} <= set(plan.attacks):
        raise ValueError("a comparison takes at least one network, and the attacks fgsm and pgd")
    check_names(networks)
    with ranks() as part:
        if part.world > 1:
            raise CheckError(f"A comparison runs in one process, and this is one of {part.world}.")
    images = _fitting(networks, data, plan)
    reports: dict[str, Report] = {}
    shares: dict[str, Shares] = {}
    with TemporaryDirectory() as spare:
        for name, network in networks.items():
            own = (folder or Path(spare)) / name
            own.mkdir(exist_ok=True)
            # Who averages 50 draws for an answer need not give ten of them.
            answers = math.ceil(plan.draws / draws_of_an_answer(network))
            with _naming(name):
                reports[name] = check(
                    network,
                    data,
                    replace(plan, draws=answers),
                    name=name,
                    folder=own,
                    on_start=on_start and partial(on_start, name),
                    on_progress=on_progress and partial(on_progress, name),
                )
            shares[name] = _strongest(reports[name], own)
    times = latencies(networks, images)
    first = next(iter(networks))
    return Comparison(
        plan,
        tuple(
            _entry(name, network, reports[name], times[name], None if name == first else (shares[name], shares[first]))
            for name, network in networks.items()
        ),
        machine(images.device),
    )


def check_names(names: Iterable[str]) -> None:
    """Makes sure that each name can be that of a folder.

    Raises:
        CheckError: One cannot.
    """
    for name in names:
        if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise CheckError(f"No network can be called {name!r}: its records need a folder of that name.")


def _fitting(networks: Mapping[str, nn.Module], data: Data | Split, plan: CheckPlan) -> torch.Tensor:
    """Makes sure, before any long work, that every network classifies the images; gives a batch of them."""
    split = data.test if isinstance(data, Data) else data
    if not len(split):
        raise CheckError("There is nothing to compare on: there are no test images.")
    device = next((p.device for network in networks.values() for p in network.parameters()), torch.device("cpu"))
    x, _ = next(split.interleaved().batches(min(TIMED, len(split))))
    x = x.to(device)
    with seeded(seed_of(plan.seed, "fitting"), [device]):
        for name, network in networks.items():
            with _naming(name):
                count_classes(network, x[:4], split, len(data.classes) if isinstance(data, Data) else None)
    return x


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except PerturbifyError as error:
        raise type(error)(f"{name}: {error.message}", error.hint) from error


def _strongest(report: Report, folder: Path) -> Shares:
    """For each image, the share of draws that were right under the strongest attack."""
    row = report.strongest
    assert row is not None, "the plan has attacks"
    written = next(folder.glob("records-*.jsonl")).read_text(encoding="utf-8")
    records = Records(folder, json.loads(written.partition("\n")[0]))
    trial = Trial(row.attack, "other", None, crafted_on=row.crafted_on, noisy=row.noise == "on")
    return outcomes([trial], records)[0].shares


def _entry(
    name: str, network: nn.Module, report: Report, latency: Latency, paired: tuple[Shares, Shares] | None
) -> Entry:
    theta = sum(p.theta.numel() for _, p in perturbations(network))
    difference = None
    if paired is not None:
        difference = Difference(float((paired[0] - paired[1]).mean()), difference_interval(*paired))
    return Entry(
        name=name,
        method=network.surgery.method if isinstance(network, Perturbed) else None,
        weights=sum(p.numel() for p in network.parameters()) - theta,
        theta=theta,
        report=report,
        latency=latency,
        difference=difference,
    )


def _figure(row: Row) -> dict[str, Any]:
    return {
        "attack": row.attack,
        "noise": row.noise,
        "draws": row.draws,
        "accuracy": row.accuracy,
        "interval": row.interval,
    }
