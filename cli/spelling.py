"""What was mistyped, said at once: names and paths are looked at before torch, timm and torchvision are imported.

Only what is certain is refused here. The rooms that use a name have the last word, and read more than names.
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

# Those of the rooms that use them, which import torch; tests hold them equal.
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
_NEIGHBOURS, _LONGEST = 1000, 255  # files beside a path that is not there, and characters of its name


def attacks(names: Iterable[str] | None) -> None:
    """Makes sure that there are attacks of these names.

    Raises:
        UsageError: There is none of a name.
    """
    unknown = [name for name in names or () if name not in ATTACKS]
    if unknown and not entry_points(group="perturbify.attacks"):  # which register others
        there = f"{nearest(unknown[0], ATTACKS)} There are {', '.join(ATTACKS)}.".lstrip()
        raise click.UsageError(f"There is no attack {unknown[0]!r}. {there}")


def device(name: str) -> None:
    """Makes sure that a device is not one with a slip in its name.

    Raises:
        PerturbifyError: It is.
    """
    kind = name.partition(":")[0]
    near = "" if kind in DEVICES else nearest(kind, DEVICES)
    if near:
        raise PerturbifyError(f"There is no device {name!r}.", near)


def data(name: str | None) -> None:
    """Makes sure that there is a dataset, or something at a path.

    Raises:
        DataError: There is neither.
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
    """Makes sure that there is something at a path.

    Raises:
        CheckpointError: There is not.
    """
    if not _there(name):
        kin = [other for other in _beside(Path(name)) if other.endswith(_FILES)]
        raise CheckpointError(f"There is no file {name}.", nearest(Path(name).name[:_LONGEST], kin) or None)


def weights(name: str | None) -> None:
    """Makes sure that there is something at the path of weights.

    Raises:
        WeightsError: There is not.
    """
    if name is not None and not os.path.lexists(name):
        raise WeightsError(
            f"There is no weights file {name!r}.", nearest(Path(name).name[:_LONGEST], _beside(Path(name))) or None
        )


def model(name: str) -> None:
    """Makes sure that a name may be that of a model, or of a file or folder; a factory of the user's passes.

    Timm's and torchvision's names are looked for in their sources, which takes a tenth of a second; to import the two
    takes several.

    Raises:
        CheckpointError: It ends like a file, and there is none.
        UnknownModel: No library has it.
    """
    library, colon, bare = name.partition(":")
    if _there(name):
        return
    if name.endswith(_FILES) and name not in _source("timm"):  # where .pt is a tag, too
        file(name)
    if colon and library not in ("perturbify", *_LIBRARIES):
        _module(library, name)
        return
    bare = bare if colon else name
    places = (library,) if colon else ("perturbify", *_LIBRARIES)
    stem = bare.partition(".")[0]  # of timm's resnet18.a1_in1k
    if any(bare in NETWORKS if place == "perturbify" else stem in _words(place) for place in places):
        return
    known = _models(places)
    hint = re.sub("'(.+?)'", lambda hit: repr(known[hit[1]]), nearest(bare, known))
    raise UnknownModel(
        f"There is no model {name!r}.",
        hint or "'perturbify:…', 'timm:…' and 'torchvision:…' are known, and your own 'package.module:factory'.",
    )


def _module(dotted: str, name: str) -> None:
    """Makes sure that the package of a user's factory is there; it is not imported."""
    top = dotted.partition(".")[0]
    if not top.isidentifier() or top in sys.modules or importlib.util.find_spec(top) is not None:
        return
    if importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd())]) is None:
        raise UnknownModel(
            f"There is no module {top!r} for the model {name!r}.",
            nearest(name, _models().values())
            or "It must be installed, or lie in the current directory or on PYTHONPATH.",
        )


def _models(places: Sequence[str] = ("perturbify", *_LIBRARIES)) -> dict[str, str]:
    """Bare names and what they mean, as far as the sources say it plainly; the first place has the word."""
    found: dict[str, str] = {}
    for place in places:
        names = NETWORKS if place == "perturbify" else _REGISTERED.findall(_source(place))
        found |= {name: f"{place}:{name}" for name in names if name not in found}
    return found


def _there(name: str) -> bool:
    """Whether there is something at a path, or the system has more to say of it than that there is nothing."""
    try:
        os.lstat(os.path.expanduser(name))  # noqa: PTH111 (any text)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def _beside(path: Path) -> Sequence[str]:
    """The names of what lies beside a path; none where nobody may look."""
    with suppress(OSError, ValueError):
        return [entry.name for entry in islice(path.parent.iterdir(), _NEIGHBOURS)]
    return []


@cache
def _source(library: str) -> str:
    """The text of a library's models, which is not imported for that."""
    spec = importlib.util.find_spec(library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = (file for folder in folders for file in Path(folder, "models").rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


@cache
def _words(library: str) -> frozenset[str]:
    """Every word of that text: whatever the library knows by a name is one of them."""
    return frozenset(re.findall(r"\w+", _source(library)))
