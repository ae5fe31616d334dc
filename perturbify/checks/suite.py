"""The suite: images are crafted by each attack of a plan, and then scored on fresh draws of the noise."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbify.attacks import randomness
from perturbify.attacks.libraries import missing
from perturbify.checks.bench import Bench, Progress, seed_of
from perturbify.checks.criteria import criteria
from perturbify.checks.estimate import Estimate
from perturbify.checks.intake import count_classes, digest_of_images, digest_of_network
from perturbify.checks.liveness import examine
from perturbify.checks.plan import PRESETS, CheckPlan
from perturbify.checks.records import Records
from perturbify.checks.report import Report
from perturbify.checks.rows import examples, outcomes, rows
from perturbify.checks.trials import ITSELF, RESERVED, Subject, Trial, trials
from perturbify.data import Data, Split
from perturbify.errors import CheckError
from perturbify.generators import seeded
from perturbify.methods.prediction import Ensemble, predictor
from perturbify.ranks import ranks
from perturbify.surgery.noisy import Perturbed
from perturbify.text import first_line


def check(
    model: nn.Module,
    data: Data | Split,
    plan: CheckPlan = PRESETS["quick"],
    *,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    against: tuple[str, nn.Module] | None = None,
    folder: Path | None = None,
    compile: bool = False,
    on_start: Callable[[Estimate], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Measures how robust a classifier is, and whether the measurement can be believed.

    Images are crafted by each attack, and then scored on fresh, independent draws of the noise, none of which the
    attack has seen; no image is dropped. The networks' modes, buffers and gradients, and the caller's random state,
    are afterwards what they were.

    Args:
        model: Any classifier that takes pixels in [0, 1], with or without noise of ours or of its own.
        data: The images; of a whole dataset the test images are taken.
        plan: Which attacks, and how many images.
        name: What the report calls the network.
        about: What the report says of where the network comes from, as JSON values.
        sources: Other classifiers of the same images, by name, to transfer attacks from.
        against: Name and network that this one is held against, attacked in the same way.
        folder: An existing folder for the records. What it holds of the same check is not done again.
        compile: Whether the attacks run compiled (torch.compile): several times faster on a GPU, after a minute or so.
            A network that does not compile runs as it is, and the report says so.
        on_start: Called with an estimate of the time before the first attack.
        on_progress: Called after every batch.

    Raises:
        CheckError: There are no images, a network does not take them, its classes are not those of the data, or the
            folder holds another check.
        ModelError: The network gives no gradient for its images, or was made for images of another size.
    """
    split = data.test if isinstance(data, Data) else data
    dataset = data.name if isinstance(data, Data) else "own images"
    if not len(split):
        raise CheckError(f"There is nothing to check on: {dataset} has no test images.")
    split = split.interleaved()
    if plan.images is not None and plan.images < len(split):
        split = split.subset(torch.arange(plan.images))
    others = {**dict([against] if against else []), **dict(sources or {})}
    reserved = [n for n in others if n in RESERVED]
    if reserved:
        raise CheckError(
            f"No other network can be called {reserved[0]!r}: the report uses that name.", "Choose another."
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    networks = {ITSELF: model, **others}
    with seeded(seed_of(plan.seed, "liveness"), [device]), ranks() as part:
        images, _ = next(split.batches(min(4, len(split))))
        images = images.to(device)
        expected = len(data.classes) if isinstance(data, Data) else None
        classes, *_ = [count_classes(network, images, split, expected) for network in networks.values()]
        liveness = examine(model, images)
        kind = randomness(model, images)
        subject = Subject(
            noisy=kind != "none",
            switchable=kind in ("fresh", "shared", "weights"),
            per_image=kind in ("fresh", "shared"),
            classes=classes,
            sources=tuple(sources or {}),
            rival=against[0] if against else None,
            rival_noisy=against is not None and randomness(against[1], images) != "none",
        )
        chosen, remarks = _possible(trials(plan, subject))
        check_of = {
            "torch": torch.__version__,
            "plan": asdict(plan),
            "images": digest_of_images(split),
            "networks": [digest_of_network(n) for n in networks.values()],
            **({"compiled": True} if compile else {}),
        }
        bench = Bench(networks, split, plan, device, _class_names(data, classes), chosen)
        if compile:
            remarks += _compiling(bench)
        records = Records(folder, check_of, part.rank)
        bench.work_off(records, part, on_start, on_progress)
        for theirs in part.gather(records.all()):
            for record in theirs:
                records.keep(record)
    judged = outcomes(chosen, records)
    return Report(
        name=name or type(model).__name__,
        architecture=_architecture(model),
        dataset=dataset,
        classes=classes,
        preset=plan.preset,
        n=len(split),
        seed=plan.seed,
        epsilon=plan.epsilon,
        deterministic=kind == "none",
        noise_mode=plan.noise if subject.per_image else kind,
        liveness=liveness,
        rows=rows(chosen, records, plan),
        criteria=criteria(judged, classes=classes, rival=subject.rival),
        machine=machine(device),
        examples=examples(bench.shown, chosen, records),
        example_attack=None if bench.shown is None else bench.shown.name,
        remarks=tuple(remarks + _remarks(kind, plan) + _answers(model)),
        about=dict(about or {}),
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on: versions, device, threads."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _possible(planned: tuple[Trial, ...]) -> tuple[tuple[Trial, ...], list[str]]:
    """The trials whose libraries are here, and a remark for each library that is not."""
    lacking = {t: missing(t.attack) for t in planned if t.attack is not None}
    left_out: dict[str, list[str]] = {}
    for trial, library in lacking.items():
        if library is not None:
            left_out.setdefault(library, []).append(trial.name)
    remarks = [
        f"Not run, for want of {library} (pip install 'perturbify[attacks]'): {', '.join(names)}."
        for library, names in left_out.items()
    ]
    return tuple(t for t in planned if lacking.get(t) is None), remarks


def _compiling(bench: Bench) -> list[str]:
    try:
        bench.compile()
    except Exception as error:  # torch.compile has no class of its own for what it cannot do
        return [f"The attacks ran uncompiled, for torch.compile failed: {first_line(error)}."]
    return []


def _remarks(kind: str, plan: CheckPlan) -> list[str]:
    said = []
    if kind == "foreign":
        said.append(
            "The network draws random numbers that are not perturbify's: its noise could not be turned off or frozen. "
            "If its images share their draws, the intervals are too narrow."
        )
    if kind == "shared" and plan.noise == "fresh":
        said.append(
            "The network shares each draw among the images of a batch; here every image had draws of its own, which "
            "changes nothing for an image by itself."
        )
    if kind == "weights":
        said.append(
            "The noise is on the weights: the images of a batch share each draw, and the intervals, which take images "
            "for independent, are too narrow."
        )
    if plan.noise == "shared" and kind in ("fresh", "shared", "foreign"):
        said.append(
            "The images of a batch shared their draws: the intervals, which take them for independent, are too narrow."
        )
    return said


def _architecture(model: nn.Module) -> str:
    """The class of the network, or of what was perturbed and for which defence."""
    if not isinstance(model, Perturbed):
        return type(model).__name__
    return f"{type(model).__name__}, {model.surgery.method}"


def _answers(model: nn.Module) -> list[str]:
    answers = predictor(model)
    if not isinstance(answers, Ensemble):
        return []
    said = [
        f"The network answers by the mean softmax of {answers.draws} draws, and one draw in this report is one such "
        "answer. The attacks follow the gradients of single draws, which EOT averages."
    ]
    if isinstance(model, Perturbed) and model.surgery.method == "pixeldp":
        said.append("Certificates are for the class with the most votes, which may be another than that here.")
    return said


def _class_names(data: Data | Split, classes: int) -> tuple[str, ...]:
    return data.classes if isinstance(data, Data) else tuple(str(i) for i in range(classes))
