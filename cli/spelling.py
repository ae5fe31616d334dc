"""Reports typos at once: names and paths are checked before torch, timm and torchvision are imported.

Only certain mistakes are refused here; the code that uses a name decides.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path

import click

from perturbify.errors import CheckpointError, DataError, PerturbifyError, UnknownModel, WeightsError, nearest

# Copies of names in modules that import torch; tests keep them equal.
ATTACKS = (
    *("fgsm", "pgd", "eot", "margin", "longer", "targets", "twin", "known", "frozen", "transfer", "random", "square"),
    *("unbounded", "sweep", "steps", "draws", "restarts", "l2", "few-pixel", "apgd", "apgd-t", "fab", "stock", "cw"),
    "hopskipjump",
)
DATASETS = ("cifar10", "cifar100", "digits")
SCHEMES = ("torch", "hfds", "hfids", "tfds", "wds")
NETWORKS = (
    *(f"cifar_resnet{depth}{width}" for width in ("", "_x1.5", "_x2", "_x4") for depth in (20, 32, 44, 56)),
    *("cifar_resnet18", "cifar_wrn28_10", "cifar_resnext29", "cifar_resnext29_2x64d"),
)
DEVICES = (
    *("auto", "cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu", "musa", "xla", "meta", "mtia", "maia", "hip", "lazy"),
    *("ipu", "mkldnn", "opengl", "opencl", "ideep", "ve", "fpga", "vulkan", "privateuseone"),
)

_LIBRARIES = ("timm", "torchvision")
_REGISTERED = re.compile(r"@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)")
_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_NEIGHBOURS, _LONGEST = 1000, 255  # files next to a missing path, and characters of its name


def attacks(names: Iterable[str] | None) -> None:
    """Makes sure that there are attacks of these names.

    Raises:
        UsageError: A name is unknown.
    """
    unknown = [name for name in names or () if name not in ATTACKS]
    # Plug-ins and code that imported the registry may have added others.
    others = "perturbify.attacks.registry" in sys.modules or entry_points(group="perturbify.attacks")
    if unknown and not others:
        there = f"{nearest(unknown[0], ATTACKS)} There are {', '.join(ATTACKS)}.".lstrip()
        raise click.UsageError(f"There is no attack {unknown[0]!r}. {there}")


def device(name: str) -> None:
    """Makes sure that a device's name has no typo.

    Raises:
        PerturbifyError: It has one.
    """
    kind = name.partition(":")[0]
    near = "" if kind in DEVICES else nearest(kind, DEVICES)
    if near:
        raise PerturbifyError(f"There is no device {name!r}.", near)


def data(name: str | None) -> None:
    """Makes sure that a dataset, or something at a path, exists.

    Raises:
        DataError: Neither does.
    """
    if name is None or name in DATASETS or ("/" in name and name.partition("/")[0] in SCHEMES) or _there(name):
        return
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (any text)
    hint = nearest(path.name[:_LONGEST], [*_beside(path), *DATASETS])
    raise DataError(
        f"There is no dataset, file or folder {name!r}.",
        f"{hint} A path to a .npz file or to an image folder works too.".lstrip(),
    )


def file(name: str) -> None:
    """Makes sure that a path exists.

    Raises:
        CheckpointError: It does not.
    """
    if not _there(name):
        kin = [other for other in _beside(Path(name)) if other.endswith(_FILES)]
        raise CheckpointError(f"There is no file {name}.", nearest(Path(name).name[:_LONGEST], kin) or None)


def weights(name: str | None) -> None:
    """Makes sure that the path of weights exists.

    Raises:
        WeightsError: It does not.
    """
    if name is not None and not os.path.lexists(name):
        raise WeightsError(
            f"There is no weights file {name!r}.", nearest(Path(name).name[:_LONGEST], _beside(Path(name))) or None
        )


def model(name: str) -> None:
    """Makes sure that a name may be a model, a file or a folder; a user's factory passes.

    timm's and torchvision's names are looked up in their source code, which takes a tenth of a second; importing the
    two takes several.

    Raises:
        CheckpointError: It ends like a file, but there is none.
        UnknownModel: No library has it.
    """
    library, colon, bare = name.partition(":")
    if _there(name):
        return
    if name.endswith(_FILES) and name not in _source("timm"):  # where .pt is also a tag
        file(name)
    if colon and library not in ("perturbify", *_LIBRARIES):
        _module(library, name)
        return
    bare = bare if colon else name
    places = (library,) if colon else ("perturbify", *_LIBRARIES)
    stem = bare.partition(".")[0]  # resnet18 in timm's resnet18.a1_in1k
    if any(bare in NETWORKS if place == "perturbify" else stem in _words(place) for place in places):
        return
    known = _models(places)
    hint = re.sub("'(.+?)'", lambda hit: repr(known[hit[1]]), nearest(bare, known))
    raise UnknownModel(
        f"There is no model {name!r}.",
        hint or "Use 'perturbify:…', 'timm:…', 'torchvision:…', or your own 'package.module:factory'.",
    )


def _module(dotted: str, name: str) -> None:
    """Makes sure that the package of a user's factory exists; it is not imported."""
    top = dotted.partition(".")[0]
    if not top.isidentifier() or top in sys.modules or importlib.util.find_spec(top) is not None:
        return
    if importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd())]) is None:
        raise UnknownModel(
            f"There is no module {top!r} for the model {name!r}.",
            nearest(name, _models().values()) or "It must be installed, in the current directory, or on PYTHONPATH.",
        )


def _models(places: Sequence[str] = ("perturbify", *_LIBRARIES)) -> dict[str, str]:
    """Bare names and their meanings, as far as the source code shows them; the first library wins."""
    found: dict[str, str] = {}
    for place in places:
        names = NETWORKS if place == "perturbify" else _REGISTERED.findall(_source(place))
        found |= {name: f"{place}:{name}" for name in names if name not in found}
    return found


def _there(name: str) -> bool:
    """Whether a path exists, or the system reports another error than that it does not."""
    try:
        os.lstat(os.path.expanduser(name))  # noqa: PTH111 (any text)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def _beside(path: Path) -> Sequence[str]:
    """The names in a path's folder; none if it is unreadable."""
    with suppress(OSError, ValueError):
        return [entry.name for entry in islice(path.parent.iterdir(), _NEIGHBOURS)]
    return []


@cache
def _source(library: str) -> str:
    """The source code of a library's models, without importing it."""
    spec = importlib.util.find_spec(library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = (file for folder in folders for file in Path(folder, "models").rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


@cache
def _words(library: str) -> frozenset[str]:
    """Every word of that text, which includes every name that the library knows."""
    return frozenset(re.findall(r"\w+", _source(library)))
