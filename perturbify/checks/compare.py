"""Runs the same attacks on the same images of several networks."""

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
"""The default plan of a comparison."""

TIMED = 32
"""Images in a batch that is timed."""


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
    """Runs the same attacks on several classifiers and shows their figures side by side.

    Each network is checked by itself (:func:`perturbify.check`); adversarial images are crafted on the network that is
    scored. All of them get the same seeds.

    Args:
        networks: Classifiers of the same images, by name, on one device. The first group is the baseline.
        images: The images, as :func:`perturbify.check` takes them.
        plan: The attacks; with ``sweep``, the curve over ε, they must include ``fgsm`` and ``pgd``. A network that
            averages draws for an answer is scored by as few answers as ``draws`` draws make.
        normalize: By a plain network's name, a layer to run before it, if it takes normalised images.
        trained: Which networks are runs that differ only in their seed; each of the others is a group of its own.
        folder: An existing folder; each network's records go to a subfolder of its name. Finished work of the same
            comparison found there is not repeated.
        on_start: Called with a network's name and an estimate of the time, before its first attack.
        on_progress: Called with its name after every batch.

    Raises:
        CheckError: A network does not take the images or has other classes, a name cannot be a folder's, the folder
            holds another comparison, or this is one of several processes.
        ModelError: A network was made for images of another size.
        ValueError: No network is given, the curve's attacks are missing, an attack's name is unknown, or a group has
            one seed twice.
    """
    check_type(
        networks, Mapping, "compare() takes a dict of networks by name", 'Pass {"name": network, "other": another}.'
    )
    check_type(plan, CheckPlan, "compare() takes a CheckPlan", "Pass perturbify.checks.compare.PLAN, or no plan.")
    for network in networks.values():
        check_network(network)
    if not networks:
        raise ValueError("a comparison needs at least one network")
    check_curve(plan)
    check_names(networks)
    layers = dict(normalize or {})
    if foreign := layers.keys() - networks.keys():
        raise ValueError(f"a normalisation is given for {min(foreign)!r}, but no network has that name")
    if inside := [name for name in layers if isinstance(networks[name], Perturbed)]:
        raise CheckError(f"{inside[0]} is wrapped and normalises inside.", "Pass the layer to perturbify.wrap.")
    networks = {n: normalized(m, layers[n]) if n in layers else m for n, m in networks.items()}
    folder = None if folder is None else Path(folder)
    members = _groups(networks, trained or {})
    with ranks() as part:
        if part.world > 1:
            raise CheckError(f"A comparison runs in one process, but this is one of {part.world}.")
    if isinstance(images, str | Path):
        images = load(str(images))
    if not isinstance(images, Data | Split):
        images = as_test(images, most=plan.images).split  # once: a shuffling loader would differ each time
    x = _fitting(networks, images, plan)
    reports: dict[str, Report] = {}
    for name, network in networks.items():
        own = None if folder is None else folder / name
        if own is not None:
            own.mkdir(exist_ok=True)
        # A network that averages 50 draws for an answer needs fewer than 20 answers; half of them choose the worst
        # case.
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
    """Makes sure that each name can be a folder's name.

    Raises:
        CheckError: A name cannot.
    """
    for name in names:
        if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise CheckError(f"{name!r} cannot be a network's name: its records need a folder of that name.")


def check_curve(plan: CheckPlan) -> None:
    """Makes sure that a plan with a curve over ε has the attacks that the curve shows.

    Raises:
        ValueError: It does not.
    """
    missing = [name for name in ("fgsm", "pgd") if "sweep" in plan.attacks and name not in plan.attacks]
    if missing:
        names = " and ".join(missing)
        raise ValueError(f"the curve over ε needs fgsm and pgd, but {names} was not requested: name both")


def _groups(networks: Iterable[str], trained: Mapping[str, Trained]) -> dict[str, dict[str, int | None]]:
    """The networks of each group with their seeds; a network that is no group's run is a group of its own."""
    found: dict[str, dict[str, int | None]] = {}
    for name in networks:
        run = trained.get(name)
        group = found.setdefault(name if run is None else run.group, {})
        if group and (run is None or run.seed in group.values()):
            raise ValueError(f"{name} and {next(iter(group))} are not runs of different seeds, which a group needs")
        group[name] = None if run is None else run.seed
    return found


def _fitting(networks: Mapping[str, nn.Module], images: Images, plan: CheckPlan) -> torch.Tensor:
    """Makes sure, before any long work, that every network classifies the images; returns a batch of them."""
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
