"""The networks of a comparison: files, runs, folders of runs, and bare weights of a named model."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perturbify.cli import models, spelling
from perturbify.cli.console import Console

if TYPE_CHECKING:
    from torch import nn

    from perturbify.checkpoint.header import Header
    from perturbify.data import Data

SEED = re.compile(r"seed-(\d+)")
"""The folder of one run among those of several seeds."""


@dataclass(frozen=True)
class Networks:
    """What was named on the command line.

    Attributes:
        files: The networks' files by their names, which differ.
        families: What those of one folder of runs are called together.
        headers: What the files say of themselves; bare weights say nothing.
    """

    files: dict[str, Path]
    families: dict[str, str]
    headers: dict[str, Header]

    @property
    def bare(self) -> list[str]:
        """Those that are bare weights."""
        return [name for name in self.files if name not in self.headers]


def split(arguments: tuple[str, ...]) -> list[tuple[str, str]]:
    """The name, or none, and the place of each ``[NAME=]FILE|RUN|RUNS`` argument.

    Raises:
        CheckpointError: There is nothing at a place.
        UsageError: Two have one name.
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
        raise click.UsageError(f"Two networks are called {twice!r}.")
    return given


def named(given: list[tuple[str, str]], model: str | None) -> Networks:
    """Reads what lies at the places.

    Args:
        given: From :func:`split`.
        model: Of which model bare weights are.

    Raises:
        CheckpointError: One is no network, or bare weights whose model is not said.
        CheckError: One is named twice.
    """
    from perturbify import checkpoint
    from perturbify.checks.compare import check_names
    from perturbify.checks.groups import distinct
    from perturbify.errors import CheckpointError

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
    if bare and model is None:
        raise CheckpointError(
            f"{files[bare[0]]} holds bare weights, and does not say of which model.",
            "Say it: --model cifar_resnet20, for instance; or make it a FILE: perturbify convert NAME --method none.",
        )
    if model is not None and not bare:
        raise click.UsageError("--model is for bare weights; each FILE here says itself what it is.")
    return Networks(files, families, {n: checkpoint.read_header(p) for n, p in files.items() if n not in bare})


def _check_once(files: dict[str, Path]) -> None:
    """Makes sure that no file is named twice: it would be counted as a second training run.

    Raises:
        CheckError: One is.
    """
    from perturbify.errors import CheckError

    seen: dict[Path, str] = {}
    for name, path in files.items():
        first = seen.setdefault(Path(os.path.realpath(path)), name)
        if first != name:
            raise CheckError(f"{first} and {name} are one file, {path}.", "Name each network once.")


def folders_of_seeds(folder: Path) -> list[Path]:
    """The runs in a folder of ``seed-*`` folders, by rising seed; none where it is a run itself."""
    from perturbify.training.folder import RunFolder

    if RunFolder(folder).model.is_file():
        return []
    found = {int(m[1]): path for path in folder.iterdir() if (m := SEED.fullmatch(path.name)) and path.is_dir()}
    return [found[seed] for seed in sorted(found)]


def load_bare(
    console: Console, name: str, path: Path, model: str, images: Data, arguments: dict[str, Any]
) -> nn.Module:
    """Builds a named model, fills it with bare weights, and says how its images are normalised."""
    from torch import nn

    from perturbify import zoo
    from perturbify.normalize import Normalize
    from perturbify.zoo.spec import NORMALIZATION

    network = models.create(
        console,
        model,
        num_classes=len(images.classes),
        pretrained=False,
        weights=str(path),
        reset_head=False,
        model_args=arguments,
    )
    normalize = zoo.normalization(network) or Normalize(images.mean, images.std)
    source = f"as {images.name} is" if zoo.normalization(network) is None else f"as {model} is"
    if hasattr(network, NORMALIZATION):
        source = f"as {path.name} says"
    mean, std = (", ".join(f"{v:.4g}" for v in part.flatten().tolist()) for part in (normalize.mean, normalize.std))
    console.log(f"{name}: no noise; pixels are normalised by mean ({mean}) and std ({std}), {source}")
    return nn.Sequential(normalize, network).eval()


def _called(path: Path) -> str:
    """A network by its file's name, or a run's by that of its folder, and of the one above for one seed of several."""
    name = models.called(str(path)).removesuffix(".safetensors")
    folder = path.absolute().parent
    return f"{folder.parent.name}-{name}" if name == folder.name and SEED.fullmatch(name) else name


def _is_bare(path: Path) -> bool:
    """Whether a file holds weights and no word of perturbify's."""
    from perturbify.checkpoint import container
    from perturbify.zoo.weights import TORCH_SUFFIXES

    if path.suffix in TORCH_SUFFIXES:
        return True
    return not any(key.startswith("perturbify") for key in container.peek(path).metadata)
