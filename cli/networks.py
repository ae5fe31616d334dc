"""The networks of a comparison: files, runs, folders of runs, and bare weights of a named model."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import models, normalization, spelling
from perturbify.cli.console import Console

if TYPE_CHECKING:
    from torch import nn

    from perturbify.checkpoint.header import Header
    from perturbify.data import Data
    from perturbify.zoo.pixels import Normalization

SEED = re.compile(r"seed-(\d+)")
"""The folder of one run among those of several seeds."""


@dataclass(frozen=True)
class Networks:
    """The networks named on the command line.

    Attributes:
        files: The networks' files by their unique names.
        families: Common names of the networks from one folder of runs.
        headers: The files' headers; bare weights have none.
        model: Model of the bare weights: the option's, or that of all the files.
        model_args: Arguments for its builder.
    """

    files: dict[str, Path]
    families: dict[str, str]
    headers: dict[str, Header]
    model: str | None
    model_args: dict[str, Any]

    @property
    def bare(self) -> list[str]:
        """The networks that are bare weights."""
        return [name for name in self.files if name not in self.headers]


def split(arguments: tuple[str, ...]) -> list[tuple[str, str]]:
    """The name, possibly empty, and the path of each ``[NAME=]FILE|RUN|RUNS`` argument.

    Raises:
        CheckpointError: There is nothing at a path.
        UsageError: Two have the same name.
    """
    given: list[tuple[str, str]] = []
    for argument in arguments:
        name, _, place = argument.partition("=")
        said = bool(name and place) and not os.path.exists(argument)  # noqa: PTH110 (any text)
        given.append((name, place) if said else ("", argument))
        spelling.file(given[-1][1])
    taken = [name for name, _ in given if name]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(f"Two networks have the name {twice!r}.")
    return given


def named(
    given: list[tuple[str, str]], model: str | None, model_args: dict[str, Any], *, trust_factory: bool
) -> Networks:
    """Reads what is at the paths.

    Args:
        given: From :func:`split`.
        model: Model of the bare weights; None: that of the other files.
        model_args: Arguments for its builder.
        trust_factory: Whether a factory that a file names may be run.

    Raises:
        CheckpointError: One is not a network, or is bare weights of an unknown model.
        CheckError: One is named twice.
    """
    from perturbify import checkpoint
    from perturbify.checks.compare import check_names
    from perturbify.checks.groups import distinct

    taken = [name for name, _ in given if name]
    files: dict[str, Path] = {}
    families: dict[str, str] = {}
    for name, place in given:
        runs = folders_of_seeds(Path(place)) if os.path.isdir(place) else []  # noqa: PTH112
        family = name or distinct(Path(place).absolute().name, list(families.values()))
        for run in runs:
            own = distinct(f"{family}-{run.name}", [*files, *taken])
            files[own], families[own] = Path(models.file_of(str(run))), family
        if not runs:
            path = Path(models.file_of(place))
            files[name or distinct(_called(path), [*files, *taken])] = path
    check_names(files)
    _check_once(files)
    bare = [name for name, path in files.items() if _is_bare(path)]
    if model is not None and not bare:
        raise click.UsageError("--model is for bare weights; each FILE here says what it is.")
    if model_args and model is None:
        raise click.UsageError("--model-arg is for the builder of --model.")
    headers = {n: checkpoint.read_header(p) for n, p in files.items() if n not in bare}
    if bare and model is None:
        model, model_args = _of_the_others(files[bare[0]], headers, trust_factory=trust_factory)
    return Networks(files, families, headers, model, model_args)


def _of_the_others(bare: Path, headers: dict[str, Header], *, trust_factory: bool) -> tuple[str, dict[str, Any]]:
    """The one model of all files.

    Raises:
        CheckpointError: They name no model, or several.
    """
    from perturbify import zoo
    from perturbify.errors import CheckpointError

    models_ = [header.model for header in headers.values()]
    said = [{key: value for key, value in (m or {}).items() if key != "weights"} for m in models_]
    first = models_[0] if models_ else None
    if first is None or any(other != said[0] for other in said):
        raise CheckpointError(
            f"{bare} holds bare weights, and "
            + ("the other FILEs are of several models." if len(said) > 1 else "does not say of which model."),
            "Name it, such as --model cifar_resnet20; or convert it: perturbify convert NAME --method none.",
        )
    zoo.check_trusted(first["name"], f"the file {next(iter(headers))}", trust_factory=trust_factory)
    return first["name"], dict(first["kwargs"])


def _check_once(files: dict[str, Path]) -> None:
    """Makes sure that no file is named twice: it would count as a second training run.

    Raises:
        CheckError: One is.
    """
    from perturbify.errors import CheckError

    seen: dict[Path, str] = {}
    for name, path in files.items():
        first = seen.setdefault(Path(os.path.realpath(path)), name)
        if first != name:
            raise CheckError(f"{first} and {name} are the same file, {path}.", "Name each network once.")


def folders_of_seeds(folder: Path) -> list[Path]:
    """The runs in a folder of ``seed-*`` folders, in order of seed; none if it is a run itself."""
    from perturbify.training.folder import RunFolder

    if RunFolder(folder).model.is_file():
        return []
    found = {int(m[1]): path for path in folder.iterdir() if (m := SEED.fullmatch(path.name)) and path.is_dir()}
    return [found[seed] for seed in sorted(found)]


def load_bare(console: Console, name: str, found: Networks, images: Data, options: dict[str, Any]) -> nn.Module:
    """Builds the model of bare weights, loads them, and prints how its images are normalised.

    Args:
        console: Where to print it.
        name: Name of the network.
        found: All that is compared: a file that started from these weights says how they are normalised.
        images: The images, for the number of classes.
        options: ``weights_key``, and those of ``normalization_options``.
    """
    from perturbify.normalize import normalized

    assert found.model is not None
    arguments = dict(found.model_args)
    network = models.create(
        console,
        found.model,
        num_classes=None if "num_classes" in arguments else len(images.classes),
        pretrained=False,
        weights=str(found.files[name]),
        weights_key=options["weights_key"],
        reset_head=False,
        model_args=arguments,
    )
    given = normalization.asked(options)
    settled = _as_beside(network, found.headers) if given is None else None
    if settled is None:
        settled = normalization.settle(console, network, images, given, name=f"{name}, without noise")
    else:
        normalization.say(console, network, settled, images, name=f"{name}, without noise")
    return (network if settled.layer is None else normalized(network, settled.layer)).eval()


def _as_beside(network: nn.Module, headers: dict[str, Header]) -> Normalization | None:
    """The normalisation inside a file that started from the same weights, or else has the same architecture."""
    from perturbify import zoo
    from perturbify.zoo.pixels import Normalization, decide

    spec = zoo.describe(network)
    if spec is None or not decide(network, None).guess:
        return None
    for name, header in headers.items():
        if header.model is not None and header.model["weights"] == spec.weights:
            return Normalization(header.normalization(), f"as in {name}, which started from these weights")
    for name, header in headers.items():
        if header.model is not None and header.model["name"] == spec.name:
            said = f"GUESSED: as in {name}, which has the same architecture"
            return Normalization(header.normalization(), said, guess=True)
    return None


def _called(path: Path) -> str:
    """A network's name: its file's, or its run's folder, with the folder above for one of several seeds."""
    name = models.called(str(path)).removesuffix(".safetensors")
    folder = path.absolute().parent
    return f"{folder.parent.name}-{name}" if name == folder.name and SEED.fullmatch(name) else name


def _is_bare(path: Path) -> bool:
    """Whether a file holds bare weights, without perturbify's metadata."""
    from perturbify.checkpoint import container
    from perturbify.zoo.weights import TORCH_SUFFIXES

    if path.suffix.lower() in TORCH_SUFFIXES:
        return True
    return not any(key.startswith("perturbify") for key in container.peek(path).metadata)
