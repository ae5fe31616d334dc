"""The check: gradients first, then attacks one by one, then the criteria."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from perturbify.arguments import check_network, check_type, described
from perturbify.attacks import Attack, randomness
from perturbify.attacks.libraries import missing
from perturbify.channels import channels
from perturbify.checks.answers import answers, borders, differing, turned
from perturbify.checks.cases import ITSELF, Case, Subject, baseline_cases, cases
from perturbify.checks.criteria import criteria
from perturbify.checks.estimate import Estimate
from perturbify.checks.evaluate import SHARE, Attacked, Bench, Progress, seed_of
from perturbify.checks.evidence import Criterion, never
from perturbify.checks.gradients import gradients
from perturbify.checks.intake import classifier, count_classes, digest_of_images, digest_of_network
from perturbify.checks.liveness import Liveness, examine
from perturbify.checks.plan import PRESETS, CheckPlan
from perturbify.checks.probe import Asked, ask
from perturbify.checks.records import Records
from perturbify.checks.report import Report
from perturbify.checks.results import Result
from perturbify.data import Data, Split, as_test
from perturbify.errors import CheckError, WrongType
from perturbify.generators import seeded
from perturbify.methods import get
from perturbify.methods.prediction import predictor
from perturbify.normalize import Normalize, normalized
from perturbify.perturbation import drawing_per, noise
from perturbify.prediction import Ensemble
from perturbify.ranks import ranks
from perturbify.surgery.noisy import Perturbed
from perturbify.text import first_line, percent
from perturbify.zoo.pixels import in_words

PROBED, FEW = 128, 16
"""Images whose gradients are tested, and images that are queried under different circumstances."""

DRAWS = 10
"""Draws that a random network's gradients are averaged over when they are tested."""

Images = Data | Split | str | Path | tuple[Any, Any] | Mapping[str, Any] | Dataset[Any] | DataLoader[Any]
"""Test images in any form, as :func:`check` takes them."""


def check(
    model: nn.Module,
    images: Images,
    plan: CheckPlan = PRESETS["quick"],
    *,
    attacks: Sequence[str | Attack | Case] | None = None,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    against: tuple[str, nn.Module] | None = None,
    normalize: Normalize | None = None,
    folder: str | Path | None = None,
    compile: bool = False,
    on_start: Callable[[Estimate], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Measures how robust a classifier is, and whether the measurement can be trusted.

    Its gradients are tested first. Then each attack crafts images, which are scored on fresh, independent draws of the
    noise, none of which the attack has seen; no image is dropped after one draw. The networks' modes, buffers and
    gradients, and the caller's random state, are restored.

    Args:
        model: Any classifier that takes pixels in [0, 1], with perturbify's noise, its own, or none.
        images: Test images as :func:`perturbify.data.as_test` takes them: a :class:`~perturbify.data.Data`, a name or
            path, a pair of images and labels, a data set, a loader.
        plan: Which attacks, and how many images.
        attacks: Attacks in place of the plan's: names, your own, or cases; ``[*preset("quick"), MyAttack()]`` adds one.
        name: The network's name in the report.
        about: Where the network comes from, for the report, as JSON values.
        sources: Other classifiers of the same images, by name, to transfer attacks from.
        against: Name and network of a baseline, which is attacked in the same way.
        normalize: A layer to run before ``model``, if it takes normalised images.
        folder: An existing folder for the records. Finished work of the same check found there is not repeated.
        compile: Whether the attacks run compiled (torch.compile): several times faster on a GPU, after a minute or so.
            A network that does not compile runs uncompiled, and the report says so.
        on_start: Called with an estimate of the time before the first attack.
        on_progress: Called after every batch.

    Raises:
        DataError: There are no images, or they are not pixels in [0, 1] with labels.
        CheckError: A network does not take the images or is not a classifier, its classes are not those of the data, or
            the folder holds another check.
        ModelError: The network was made for images of another size.
        ValueError: An attack's name is unknown.
    """
    _check_arguments(model, plan, attacks, sources, against)
    if folder is not None and not Path(folder).is_dir():
        raise CheckError(f"There is no folder {str(folder)!r} for the records.", "Make it first.")
    if attacks is not None:
        plan = replace(plan, attacks=tuple(attacks), preset="custom" if plan.preset in PRESETS else plan.preset)
    about = {"normalisation": _pixels(model, normalize), **(about or {})}
    architecture, own_remarks = _architecture(model), _of_method(model) + _answers(model)
    if normalize is not None:
        if isinstance(model, Perturbed):
            raise CheckError("A wrapped network normalises inside.", "Pass the layer to perturbify.wrap(normalize=…).")
        model = normalized(model, normalize)
    with seeded(seed_of(plan.seed, "images")):  # a loader shuffles with the global generator
        given = as_test(images, channels=channels(model), most=plan.images)
    split, dataset, class_names = given.split.interleaved(), given.name, given.classes
    if plan.images is not None and plan.images < len(split):
        split = split.subset(torch.arange(plan.images))
    others = {**dict([against] if against else []), **dict(sources or {})}
    if ITSELF in others:
        raise CheckError(f"No other network may be called {ITSELF!r}: the report uses that name.", "Choose another.")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with seeded(seed_of(plan.seed, "liveness"), [device]), ranks() as part:
        x, y = next(split.batches(min(PROBED, len(split))))
        x, y = x.to(device), y.to(device)
        few = x[:4]
        networks = {n: classifier(m, few) for n, m in {ITSELF: model, **others}.items()}
        expected = None if class_names is None else len(class_names)
        classes, *_ = [count_classes(network, few, split, expected) for network in networks.values()]
        liveness = examine(model, few)
        kinds = {n: randomness(network, few) for n, network in networks.items()}
        kind = kinds[ITSELF]
        subject = Subject(
            noisy=kind != "none",
            switchable=kind in ("fresh", "shared", "weights"),
            per_image=kind in ("fresh", "shared"),
            classes=classes,
            sources=tuple(sources or {}),
        )
        with drawing_per(model, SHARE[plan.noise]):
            tested = _tested(networks[ITSELF], x, y, plan, kind)
        planned = cases(plan, subject)
        if against is not None:
            random = kinds[against[0]] != "none"
            planned += baseline_cases(plan, replace(subject, noisy=random), against[0])
        chosen, remarks = _possible(planned, networks, few, y[:4])
        attacked = {n: Attacked(m, kinds[n] != "none", _shared(kinds[n], plan)) for n, m in networks.items()}
        bench = Bench(attacked, split, plan, device, class_names or tuple(map(str, range(classes))), chosen)
        if compile:
            remarks += _compiling(bench)
        check_of = {
            "torch": torch.__version__,
            "plan": asdict(replace(plan, attacks=())),
            "attacks": [_described(case) for case in chosen],
            "images": digest_of_images(split),
            "networks": [digest_of_network(n) for n in networks.values()],
            **({"compiled": True} if compile else {}),
        }
        records = Records(None if folder is None else Path(folder), check_of, part.rank)
        before = ask(networks[ITSELF], x[:FEW], y[:FEW], [0], gradient=True)
        bench.evaluate(records, part, on_start, on_progress)
        after = ask(networks[ITSELF], x[:FEW], y[:FEW], [0], gradient=True)
        for theirs in part.gather(records.all()):
            for record in theirs:
                records.keep(record)
    if kind != "foreign":
        tested += (_unchanged(before, after),)
    results = bench.results(records)
    return Report(
        name=name or type(model).__name__,
        architecture=architecture,
        dataset=dataset,
        classes=classes,
        preset=plan.preset,
        n=len(split),
        seed=plan.seed,
        epsilon=plan.epsilon,
        deterministic=kind == "none",
        noise_mode=plan.noise if subject.per_image else kind,
        liveness=liveness,
        results=results,
        criteria=tested
        + criteria(
            results,
            epsilon=plan.epsilon,
            classes=classes,
            liveness=liveness,
            baseline=None if against is None else against[0],
        ),
        machine=machine(device),
        baseline=None if against is None else against[0],
        examples=bench.examples(records),
        example_attack=None if bench.shown is None else bench.shown.id,
        remarks=(
            *given.notes,
            *remarks,
            *_remarks(kind, plan, liveness),
            *_near_chance(results, classes),
            *own_remarks,
        ),
        about=about,
    )


def _check_arguments(model: Any, plan: Any, attacks: Any, sources: Any, against: Any) -> None:
    """Makes sure that the arguments of a check have the right types."""
    check_network(model, "check")
    named = f'PRESETS["{plan}"]' if isinstance(plan, str) and plan in PRESETS else "CheckPlan(images=256)"
    check_type(plan, CheckPlan, "check() takes a CheckPlan", f"Pass perturbify.checks.{named}.")
    if attacks is not None and (isinstance(attacks, str) or not isinstance(attacks, Iterable)):
        raise WrongType(f"attacks must be a list, not {described(attacks)}.", "Pass a list of one: attacks=[attack].")
    check_type(
        {} if sources is None else sources,
        Mapping,
        "sources must be a dict of networks by name",
        'Pass sources={"name": network}.',
    )
    if against is not None and not (isinstance(against, tuple) and len(against) == 2 and isinstance(against[0], str)):
        raise WrongType(f"against must be a name and a network, not {described(against)}.", 'Pass ("name", network).')
    for network in (*(sources or {}).values(), *(against or ())[1:]):
        check_network(network)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on: versions, device, threads."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _tested(model: nn.Module, x: Tensor, y: Tensor, plan: CheckPlan, kind: str) -> tuple[Criterion, ...]:
    """Before any attack: can the network's gradients and answers be trusted?"""

    def seeds(what: str, n: int) -> list[int]:
        return [seed_of(plan.seed, what, i) for i in range(n)]

    draws = 1 if kind == "none" else DRAWS
    found = answers(model, x[:FEW], y[:FEW], seeds, deterministic=kind != "foreign")
    steepest = gradients(model, x, y, epsilon=plan.epsilon, seeds=seeds("gradients", draws), size=plan.batch_size)
    if kind == "foreign":
        return (*steepest, *found, _apart(model, x[:FEW], y[:FEW]))
    with noise(model, enabled=False):
        border = borders(model, x, epsilon=plan.epsilon, seed=seeds("borders", 1)[0], size=plan.batch_size)
    return (*steepest, *found, border)


def _apart(model: nn.Module, x: Tensor, y: Tensor) -> Criterion:
    reached = torch.equal(*(ask(model, x, y, [0]).margins for _ in range(2)))
    whose = "torch's global generator" if reached else "a generator that no seed reaches"
    return Criterion(
        "the noise can be switched off and fixed",
        "Noise that cannot be switched off and fixed may hide the gradient, and what it adds cannot be measured.",
        (),
        detail=f"the network draws random numbers that are not perturbify's, from {whose}",
    )


def _unchanged(before: Asked, after: Asked) -> Criterion:
    return Criterion(
        "the check has not changed the network",
        "The network answers differently after thousands of queries.",
        (
            never("images whose answer changed during the attacks", differing(before, after)),
            never("images whose gradient changed during the attacks", turned(before, after)),
        ),
    )


def _possible(
    planned: tuple[Case, ...], networks: Mapping[str, nn.Module], x: Tensor, y: Tensor
) -> tuple[tuple[Case, ...], list[str]]:
    """The cases that can be run, and remarks on those without their library or a gradient."""
    left_out: dict[str, list[str]] = {}
    given = {name: ask(network, x, y, [0], gradient=True).given for name, network in networks.items()}
    chosen = []
    for case in planned:
        library = None if case.attack is None else missing(case.attack)
        if library is not None:
            left_out.setdefault(f"{library} is not installed (pip install 'perturbify[attacks]')", []).append(case.name)
        elif case.needs_gradient and not given[case.source or case.network]:
            left_out.setdefault("the network has no gradient", []).append(case.name)
        else:
            chosen.append(case)
    return tuple(chosen), [f"Not run ({why}): {', '.join(names)}." for why, names in left_out.items()]


def _described(case: Case) -> dict[str, Any]:
    attack = case.attack
    settings = asdict(attack) if is_dataclass(attack) and not isinstance(attack, type) else repr(attack)
    return {"id": case.id, "on": case.on, "source": case.source, "images": case.images, "settings": settings}


def _shared(kind: str, plan: CheckPlan) -> bool:
    """Whether the images of a batch share a draw; a foreign network gets the benefit of the doubt, and a remark."""
    return kind == "weights" or (kind in ("fresh", "shared") and plan.noise == "shared")


def _compiling(bench: Bench) -> list[str]:
    try:
        bench.compile()
    except Exception as error:  # torch.compile has no exception class of its own
        return [f"The attacks ran uncompiled because torch.compile failed: {first_line(error)}."]
    return []


def _remarks(kind: str, plan: CheckPlan, liveness: Liveness) -> list[str]:
    said = []
    if kind == "none" and liveness.sites:
        said.append("The network's noise is switched off: these figures are for its weights without it.")
    if kind == "foreign":
        said.append(
            "The network draws random numbers that are not perturbify's; its noise could not be turned off or frozen. "
            "If its images share their draws, the intervals are too narrow."
        )
    if kind == "shared" and plan.noise == "fresh":
        said.append(
            "The network shares each draw among the images of a batch; here every image had its own draws, which "
            "changes nothing for a single image."
        )
    return said


def _pixels(model: nn.Module, normalize: Normalize | None) -> str:
    """How pixels reach the network."""
    layer = model.normalize if isinstance(model, Perturbed) and model.surgery.normalizes else None
    if layer is not None:
        return f"Pixels are normalised inside the network: {in_words(layer)}"
    if normalize is not None:
        return f"Pixels are normalised before the network: {in_words(normalize)}"
    return "Pixels go into the network as they are, in [0, 1]"


def _near_chance(results: Sequence[Result], classes: int) -> list[str]:
    """What to look at first if a network is hardly better than chance."""
    clean, chance = next(r for r in results if r.id == "clean"), 1 / classes
    if clean.interval[0] > chance and clean.accuracy > min(2 * chance, chance + 0.1 * (1 - chance)):
        return []
    return [
        f"Clean accuracy, {percent(clean.accuracy)}%, is near chance ({percent(chance)}%). Is the normalisation right "
        "(--mean and --std, or --no-normalize)? Are the classes in the order that the network was trained with?"
    ]


def _architecture(model: nn.Module) -> str:
    """The class of the network; for a wrapped one, with its defence."""
    if not isinstance(model, Perturbed):
        return type(model).__name__
    return f"{type(model).__name__}, {model.surgery.method}"


def _of_method(model: nn.Module) -> list[str]:
    if not isinstance(model, Perturbed) or model.surgery.plan.config is None:
        return []
    return list(get(model.surgery.method).remarks(model))


def _answers(model: nn.Module) -> list[str]:
    answering = predictor(model)
    if not isinstance(answering, Ensemble):
        return []
    said = [
        f"The network answers with the mean softmax of {answering.draws} draws; one draw in this report is one such "
        "answer. The attacks follow the gradients of single draws, which EOT averages."
    ]
    if isinstance(model, Perturbed) and get(model.surgery.method).certifies:
        said.append("Certificates are for the class with the most votes, which may differ from the prediction here.")
    return said
