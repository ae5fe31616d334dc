"""Weights files: read without running anything in them, fitted to a model only when everything fits."""

from __future__ import annotations

import hashlib
import json
import pickle
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
    path = Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        raise WeightsError(f"There is no weights file {str(path)!r}.", nearest(path.name, siblings) or None)
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
    return WeightsFile(
        label=f"file:{path.name} (sha256 {digest[:8]}…)",
        state=_state_dict(path.name, held),
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
        WeightsError: Names are missing or unexpected, shapes differ, or there is no head to reset.
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


def _differs(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str) -> bool:
    return state[name].shape != wanted[name].shape


def _first(names: list[str]) -> str:
    """Counts names and shows the first three: ``"5 names (a, b, c, …)"``."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} name{'s' * (len(names) > 1)} ({shown})"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (SafetensorError, OSError) as error:
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
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # how torch names what the pickle wanted to import
            raise _unreadable(path, "it is no file that torch.save wrote") from error
        raise WeightsError(
            f"{path.name!r} holds pickled code besides tensors, and that is never run here.",
            "Save its state_dict() alone where you trust it, best as safetensors.",
        ) from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes to damage
        raise _unreadable(path, str(error).partition("\n")[0] or type(error).__name__) from error


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
    wrapped = all(name.startswith("module.") for name in held)  # by DataParallel
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in held.items()}


def _normalization(source: str, metadata: Mapping[str, str]) -> Normalize | None:
    if not metadata.keys() >= {"mean", "std"}:
        return None
    try:
        return Normalize(json.loads(metadata["mean"]), json.loads(metadata["std"]))
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{source!r} states a mean {metadata['mean']} and std {metadata['std']} that do not fit.",
            "Both must be JSON lists of one number a channel.",
        ) from error
