"""Reads weights files without running anything in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from perturbify.errors import WeightsError, nearest
from perturbify.normalize import Normalize
from perturbify.zoo.state_dicts import States, constants, find

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".ckpt", ".tar")
_LONGEST_HEADER = 10_000_000  # bytes; ten thousand tensors take one million
_LONGEST_LIST = 10_000  # characters of a mean or std


# Data that training runs save besides weights: arguments, paths, a best accuracy.
_DATA = (
    "argparse.Namespace",
    "datetime.datetime",
    *(f"{module}.{kind}" for module in ("pathlib", "pathlib._local") for kind in ("PosixPath", "WindowsPath", "Path")),
    *(f"numpy.{module}.multiarray.{name}" for module in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
)


class _Ignored:
    """A placeholder for such data, so that nothing of it is imported or called."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Attributes:
        label: ``"file:NAME (sha256 0123abcd…)"``, for a :class:`ModelSpec`.
        states: The state dicts in it by their place, on the CPU.
        normalization: The normalisation of images that the file states, if any.
    """

    label: str
    states: States
    normalization: Normalize | None


def read_weights(path: str | Path) -> WeightsFile:
    """Reads a ``.safetensors`` or a torch file (``weights_only=True``).

    ``mean`` and ``std`` are its normalisation: JSON lists in a safetensors file's metadata, or numbers at the top of a
    torch file.

    Raises:
        WeightsError: The file is missing or unreadable, holds pickled code, is a perturbify checkpoint, or holds no
            state dict.
    """
    asked, path = str(path), Path(path)
    if not os.path.isfile(asked):  # noqa: PTH113 -- which takes any text, even one too long for a name
        raise _no_file(asked)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        held, metadata = _read_safetensors(path)
        normalization = _normalization(path.name, metadata)
    elif suffix in TORCH_SUFFIXES:
        held = _read_torch(path)
        normalization = constants(held.get("mean"), held.get("std")) if isinstance(held, Mapping) else None
    elif path.name.endswith(".index.json"):
        raise WeightsError(
            f"{path.name!r} is the index of weights in several files, which cannot be read here.",
            "Load the parts with safetensors.torch.load_file, and save them in one file.",
        )
    else:
        raise WeightsError(
            f"{path.name!r} does not have the name of a weights file.",
            f"Weights are .safetensors files, or {', '.join(TORCH_SUFFIXES)} files from torch.save.",
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightsFile(
        label=f"file:{path.name} (sha256 {digest[:8]}…)", states=find(path.name, held), normalization=normalization
    )


def _no_file(asked: str) -> WeightsError:
    path = Path(asked)
    if os.path.lexists(asked):
        kind = "folder" if path.is_dir() else "link to nothing, a device or a pipe"
        return WeightsError(f"{asked!r} is not a weights file but a {kind}.")
    siblings: list[str] = []
    with contextlib.suppress(OSError):  # the folder may be missing or unreadable
        siblings = [p.name for p in path.parent.iterdir() if p.is_file()]
    return WeightsError(f"There is no weights file {asked!r}.", nearest(path.name, siblings) or None)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with path.open("rb") as start:
            if int.from_bytes(start.read(8), "little") > _LONGEST_HEADER:
                raise OSError(f"its header has more than {_LONGEST_HEADER:,} bytes")
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{path.name!r} cannot be read as safetensors: {error}.", "Is it complete, and is it that format?"
        ) from error
    if "perturbify" in metadata:
        raise WeightsError(
            f"{path.name!r} is a whole perturbify checkpoint, not bare weights.",
            "Use it as the model itself, without `--weights`.",
        )
    return state, metadata


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused by name anyway
            _refuse_inflating(path)
            with torch.serialization.safe_globals([(_Ignored, name) for name in _DATA]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # torch's word for an import by the pickle
            raise _unreadable(path, "it was not written by torch.save") from error
        raise WeightsError(
            f"{path.name!r} holds pickled code besides tensors, which is never run here.",
            "Where you trust it, save only its state_dict(), preferably as safetensors.",
        ) from error
    except LookupError as error:  # its text is only an unknown byte
        raise _unreadable(path, "it was not written by torch.save") from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes to damage
        raise _unreadable(path, re.split(r"\.\s|\n", str(error))[0] or type(error).__name__) from error


def _refuse_inflating(path: Path) -> None:
    """Makes sure that a file's content is no larger than the file.

    Raises:
        ValueError: It may be larger.
    """
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\nbytearray\n") >= 0:  # torch lets a pickle call this, with any length
            raise ValueError("it creates byte arrays, which weights do not need")
        zipped = content[:2] == b"PK"
    if zipped or zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if sum(m.file_size for m in members) > path.stat().st_size or any(m.compress_type for m in members):
            raise ValueError("it holds compressed or overlapping parts, which torch.save does not write")


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path.name!r} cannot be read by torch.load: {why}.", "Is it complete?")


def _normalization(source: str, metadata: Mapping[str, str]) -> Normalize | None:
    if not metadata.keys() >= {"mean", "std"}:
        return None
    try:
        mean, std = (json.loads(metadata[key][:_LONGEST_LIST]) for key in ("mean", "std"))
        if not all(math.isfinite(number) for number in (*mean, *std)):
            raise ValueError("not finite")
        return Normalize(mean, std)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # RecursionError is a RuntimeError
        raise WeightsError(
            f"{source!r} states a mean {metadata['mean']} and std {metadata['std']} that do not fit.",
            "Both must be JSON lists of one number a channel.",
        ) from error
