"""Weights files: read without running anything in them, fitted to a model only when everything fits."""

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
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from perturbify.errors import WeightsError, nearest
from perturbify.normalize import Normalize

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin")
_LONGEST_HEADER = 10_000_000  # bytes; ten thousand tensors take one
_LONGEST_LIST = 10_000  # characters of a mean or std
_WHOLE = {torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64}
_WHOLE.add(torch.int64)


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds.

    Attributes:
        label: ``"file:NAME (sha256 0123abcd…)"``, for a :class:`ModelSpec`.
        state: The state dict, on the CPU.
        normalization: What the file says its images were normalised with, if it does.
    """

    label: str
    state: dict[str, Tensor]
    normalization: Normalize | None


def read_weights(path: str | Path) -> WeightsFile:
    """Reads a state dict from ``.safetensors``, or from a torch file with ``weights_only=True``.

    A dict under ``"state_dict"`` or ``"model"`` is unwrapped, and ``"module."`` is taken off when all names
    have it. JSON lists under ``mean`` and ``std`` in a safetensors file's metadata are its normalisation.

    Raises:
        WeightsError: The file is missing, unreadable, pickled code, our own checkpoint, or no state dict.
    """
    asked, path = str(path), Path(path)
    if not os.path.isfile(asked):  # noqa: PTH113 -- which takes any text, such as one that is too long for a name
        raise _no_file(asked)
    if path.suffix == ".safetensors":
        held, metadata = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        held, metadata = _read_torch(path), {}
    else:
        raise WeightsError(
            f"{path.name!r} is no weights file by its name.",
            f"Weights come as .safetensors, or as {', '.join(TORCH_SUFFIXES)} that torch.save wrote.",
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    state = _state_dict(path.name, held)
    return WeightsFile(
        label=f"file:{path.name} (sha256 {digest[:8]}…)",
        state=state,
        normalization=_normalization(path.name, metadata),
    )


def fit_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    head: Callable[[], AbstractSet[str]],
    reset_head: bool = False,
) -> None:
    """Loads a state dict strictly, or leaves the model as it was.

    Args:
        model: The network to load into.
        state: The weights; ``*.num_batches_tracked`` may be missing.
        source: What errors call the weights.
        head: Finds the state-dict names of the classifier's head; asked only when they matter.
        reset_head: Load everything else and leave the head as it is.

    Raises:
        WeightsError: Names are missing or unexpected, shapes or kinds of numbers differ, there are NaN or infinite
            ones, or there is no head to reset.
    """
    wanted = model.state_dict()
    skipped = head() if reset_head else frozenset()
    if reset_head and not skipped:
        raise WeightsError(
            f"Which layer is this model's head cannot be told, so {source} cannot be loaded without it.",
            "A factory that takes num_classes shows its head.",
        )
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in state and name not in skipped | optional]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        parts = [f"lacks {_first(missing)}"] * bool(missing) + [f"has unknown {_first(unexpected)}"] * bool(unexpected)
        raise WeightsError(
            f"{source} does not fit this model: it {' and '.join(parts)}.",
            "The weights of the same architecture, with the same arguments, are needed.",
        )
    differing = [name for name in wanted if name in state and name not in skipped and _differs(state, wanted, name)]
    if differing:
        _refuse_shapes(source, state, wanted, differing, head())
    for name in wanted:
        if name in state and name not in skipped:
            _check_values(source, name, state[name], wanted[name])
    # Into the model's own dict, as it carries the modules' versions: without them, MNASNet takes a file for an old one.
    wanted.update({k: v for k, v in state.items() if k not in skipped})
    model.load_state_dict(wanted)


def _refuse_shapes(
    source: str,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    differing: list[str],
    head: AbstractSet[str],
) -> None:
    if set(differing) <= head:
        here, there = (tensors[differing[0]].shape[0] for tensors in (state, wanted))
        raise WeightsError(
            f"{source} does not fit this model: its head has {here} classes, the model {there}.",
            "`--reset-head` loads the rest and leaves the head fresh.",
        )
    shapes = [f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}" for n in differing[:3]]
    raise WeightsError(
        f"{source} does not fit this model: {len(differing)} shapes differ ({'; '.join(shapes)}"
        f"{'; …' if len(differing) > 3 else ''}).",
        "The weights of the same architecture, with the same arguments, are needed.",
    )


def _check_values(source: str, name: str, value: Tensor, held: Tensor) -> None:
    """Makes sure that a tensor keeps its meaning where it goes: a rounded number is one, an int8 code is none."""
    kinds = _kind(value.dtype), _kind(held.dtype)
    if None in kinds or (kinds[0] != kinds[1] and kinds != ("real", "whole")):
        raise WeightsError(
            f"{source} does not fit this model: {name} is {_dtype(value)}, not {_dtype(held)}.",
            "Quantised, packed, or otherwise encoded weights must be made ordinary ones first.",
        )
    value = value.detach()
    taken = value.to(held.dtype)
    if kinds[1] == "whole":
        if not torch.equal(taken.to(value.dtype), value):
            raise WeightsError(f"{source} does not fit this model: {name} holds other numbers than {_dtype(held)}.")
        return
    # A mask may hold infinity on purpose; then the model's own does so, too.
    if wrong := int((~taken.isfinite() & (taken != held)).sum()):
        raise WeightsError(
            f"{source} holds weights that are no numbers: {name} has NaN or infinity in {wrong} of {taken.numel()}.",
            "Its training diverged, or the file is damaged; take an earlier one.",
        )


def _kind(dtype: torch.dtype) -> str | None:
    if dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return "real"
    if dtype.is_complex:
        return "complex"
    return "whole" if dtype in _WHOLE else None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _differs(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str) -> bool:
    return state[name].shape != wanted[name].shape


def _first(names: list[str]) -> str:
    """Counts names and shows the first three: ``"5 names (a, b, c, …)"``."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} name{'s' * (len(names) > 1)} ({shown})"


def _no_file(asked: str) -> WeightsError:
    path = Path(asked)
    if os.path.lexists(asked):
        kind = "folder" if path.is_dir() else "link to nothing, a device or a pipe"
        return WeightsError(f"{asked!r} is no weights file but a {kind}.")
    siblings: list[str] = []
    with contextlib.suppress(OSError):  # the folder may be missing, or not for us to look into
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
            "Give it as the model itself instead of with `--weights`.",
        )
    return state, metadata


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused by name anyway
            _refuse_inflating(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # how torch names what the pickle wanted to import
            raise _unreadable(path, "it is no file that torch.save wrote") from error
        raise WeightsError(
            f"{path.name!r} holds pickled code besides tensors, and that is never run here.",
            "Save its state_dict() alone where you trust it, best as safetensors.",
        ) from error
    except LookupError as error:  # whose text is but the byte that stands for nothing
        raise _unreadable(path, "it is no file that torch.save wrote") from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes to damage
        raise _unreadable(path, re.split(r"\.\s|\n", str(error))[0] or type(error).__name__) from error


def _refuse_inflating(path: Path) -> None:
    """Makes sure that what a file holds is no larger than itself.

    Raises:
        ValueError: It may be larger.
    """
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\nbytearray\n") >= 0:  # which torch allows a pickle to call, with any length
            raise ValueError("it makes byte arrays, which no weights need")
        zipped = content[:2] == b"PK"
    if zipped or zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if sum(m.file_size for m in members) > path.stat().st_size or any(m.compress_type for m in members):
            raise ValueError("it holds compressed or overlapping parts, which torch.save writes none of")


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path.name!r} cannot be read by torch.load: {why}.", "Is it complete?")


def _state_dict(source: str, held: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise WeightsError(
            f"{source!r} holds no state dict.",
            "Wanted are tensors by name, at the top or under 'state_dict' or 'model'.",
        )
    for name, tensor in held.items():
        if not isinstance(name, str):
            raise WeightsError(f"{source!r} holds no state dict: a tensor is called {name!r:.80}, which is no text.")
        if kind := _unusual(tensor):
            raise WeightsError(
                f"{source!r} holds {name} as a {kind} tensor, and weights are ordinary ones.",
                "Make it one (.to_dense(), .dequantize()) and save the state_dict() again.",
            )
    wrapped = all(name.startswith("module.") for name in held)  # by DataParallel
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in held.items()}


def _unusual(tensor: Tensor) -> str | None:
    """What is unusual in how a tensor holds its numbers, if anything is."""
    if tensor.is_meta:
        return "meta"
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    return None if tensor.layout is torch.strided else "sparse"


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
