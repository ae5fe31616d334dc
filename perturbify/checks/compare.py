"""Several networks under the same adversaries on the same images: how that is found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from perturbify.arguments import check_network, check_type
from perturbify.channels import channels
from perturbify.checks.comparison import Comparison, Entry, Group
from perturbify.checks.estimate import Estimate
from perturbify.checks.evaluate import Progress, seed_of
from perturbify.checks.groups import Trained
from perturbify.checks.intake import count_classes
from perturbify.checks.latency import Latency, draws_of_an_answer, latencies
from perturbify.checks.plan import CheckPlan
from perturbify.checks.report import Report
from perturbify.checks.run import Images, check, machine
from perturbify.checks.runs import Ahead
from perturbify.data import Data, Split, as_test, load
from perturbify.errors import CheckError, PerturbifyError
from perturbify.generators import seeded
from perturbify.normalize import Normalize, normalized
from perturbify.perturbation import perturbations
from perturbify.ranks import ranks
from perturbify.surgery.noisy import Perturbed

PLAN = CheckPlan(
    attacks=("fgsm", "pgd", "margin", "eot", "twin", "sweep"), sweep=(0.25, 0.5, 1.5, 2.0), eot_draws=20, queries=(1,)
)
"""What a comparison does by default."""

TIMED = 32
"""Images in a batch whose time is taken."""


def compare(
    networks: Mapping[str, nn.Module],
    images: Images,
    plan: CheckPlan = PLAN,
    *,
    normalize: Mapping[str, Normalize] | None = None,
    trained: Mapping[str, Trained] | None = None,
    folder: str | Path | None = None,
    on_start: Callable[[str, Estimate], None] | None = None,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> Comparison:
    """Runs the same adversaries on several classifiers and sets their figures side by side.

    Each network is checked by itself (:func:`perturbify.check`); adversarial images are crafted on the network that is
    scored. What is random has the same seeds for all.

    Args:
        networks: Classifiers of the same images, by name, on one device. Differences are to the first group.
        images: The images, as :func:`perturbify.check` takes them.
        plan: The adversaries; with ``sweep``, the curve over ε, ``fgsm`` and ``pgd`` among them. A network that
            averages draws for an answer is scored by as few answers as take ``draws`` of them.
        normalize: A layer to run before a plain network, by its name, where that takes normalised images.
        trained: Which networks are runs that differ only in their seed; the others stand alone, each by its name.
        folder: An existing folder, in which each network gets one of its name for its records. What is there of the
            same comparison is not done again.
        on_start: Called with a network's name and an estimate of the time, before its first attack.
        on_progress: Called with its name after every batch.

    Raises:
        CheckError: A network does not take the images or tells other classes apart, a name is none for a folder, the
            folder holds another comparison, or this is one of several processes.
        ModelError: A network was made for images of another size.
        ValueError: There is no network, a curve without its attacks, no attack of a name, or one seed twice in a group.
    """
    check_type(networks, Mapping, "compare() takes networks by name", 'Give {"name": network, "other": another}.')
    check_type(plan, CheckPlan, "compare() takes a CheckPlan", "Give perturbify.checks.compare.PLAN, or none.")
    for network in networks.values():
        check_network(network)
    if not networks:
        raise ValueError("a comparison takes at least one network")
    check_curve(plan)
    check_names(networks)
    layers = dict(normalize or {})
    if foreign := layers.keys() - networks.keys():
        raise ValueError(f"a normalisation is given for {min(foreign)!r}, and no network is called so")
    if inside := [name for name in layers if isinstance(networks[name], Perturbed)]:
        raise CheckError(f"{inside[0]} is wrapped, and normalises inside.", "Give the layer to perturbify.wrap.")
    networks = {n: normalized(m, layers[n]) if n in layers else m for n, m in networks.items()}
    folder = None if folder is None else Path(folder)
    members = _groups(networks, trained or {})
    with ranks() as part:
        if part.world > 1:
            raise CheckError(f"A comparison runs in one process, and this is one of {part.world}.")
    if isinstance(images, str | Path):
        images = load(str(images))
    if not isinstance(images, Data | Split):
        images = as_test(images, most=plan.images).split  # once: a loader that shuffles would give each network others
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
    groups: list[Group] = []
    for group, runs in members.items():
        entries = tuple(_entry(name, networks[name], reports[name], times[name], seed) for name, seed in runs.items())
        found = Group(group, entries)
        groups.append(found if not groups else replace(found, ahead=_ahead(found, groups[0])))
    return Comparison(plan, tuple(groups), machine(x.device))


def check_names(names: Iterable[str]) -> None:
    """Makes sure that each name can be that of a folder.

    Raises:
        CheckError: One cannot.
    """
    for name in names:
        if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise CheckError(f"No network can be called {name!r}: its records need a folder of that name.")


def check_curve(plan: CheckPlan) -> None:
    """Makes sure that a plan with other ε has the attacks whose curve that is.

    Raises:
        ValueError: It has not.
    """
    missing = [name for name in ("fgsm", "pgd") if "sweep" in plan.attacks and name not in plan.attacks]
    if missing:
        names = " and ".join(missing)
        raise ValueError(f"the curve over ε is that of fgsm and pgd, and {names} is not asked for: name both")


def _groups(networks: Iterable[str], trained: Mapping[str, Trained]) -> dict[str, dict[str, int | None]]:
    """The networks of each group with their seeds; each by itself that is no run of any."""
    found: dict[str, dict[str, int | None]] = {}
    for name in networks:
        run = trained.get(name)
        group = found.setdefault(name if run is None else run.group, {})
        if group and (run is None or run.seed in group.values()):
            raise ValueError(f"{name} is no other run of {next(iter(group))}: a group's runs differ in their seeds")
        group[name] = None if run is None else run.seed
    return found


def _fitting(networks: Mapping[str, nn.Module], images: Images, plan: CheckPlan) -> torch.Tensor:
    """Makes sure, before any long work, that every network classifies the images; gives a batch of them."""
    device = next((p.device for network in networks.values() for p in network.parameters()), torch.device("cpu"))
    part = as_test(images, channels=channels(next(iter(networks.values()))), most=plan.images)
    x, _ = next(part.split.interleaved().batches(min(TIMED, len(part.split))))
    x = x.to(device)
    with seeded(seed_of(plan.seed, "fitting"), [device]):
        for name, network in networks.items():
            with _naming(name):
                count_classes(network, x[:4], part.split, None if part.classes is None else len(part.classes))
    return x


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except PerturbifyError as error:
        raise type(error)(f"{name}: {error.message}", error.hint) from error


def _entry(name: str, network: nn.Module, report: Report, latency: Latency, seed: int | None) -> Entry:
    theta = sum(p.theta.numel() for _, p in perturbations(network))
    return Entry(
        name=name,
        method=network.surgery.method if isinstance(network, Perturbed) else None,
        weights=sum(p.numel() for p in network.parameters()) - theta,
        theta=theta,
        report=report,
        latency=latency,
        seed=seed,
    )


def _ahead(group: Group, first: Group) -> Ahead:
    ours, theirs = ([e.report.worst for e in g.entries] for g in (group, first))
    return Ahead.of(ours, theirs, shared=group.shared or first.shared)
