"""One safetensors file that holds the whole model: weights, θ and, in its metadata, a description.

The file's tensors are the network's state dict under the source network's own keys, plus
``<convolution>.perturb.theta`` for each site, plus ``normalize.mean`` and ``normalize.std`` where a normalisation layer
is inside. The metadata has an entry ``perturbify``, a JSON object with the fields of
:class:`perturbify.checkpoint.Header`, and the seal. docs/checkpoint.md is the contract for other readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from perturbify import zoo
from perturbify.arguments import check_path
from perturbify.checkpoint import container
from perturbify.checkpoint.agreement import check_arguments, check_file, check_values, other_dtypes
from perturbify.checkpoint.building import check_answers
from perturbify.checkpoint.container import Contents
from perturbify.checkpoint.header import FORMAT, Header, versions
from perturbify.errors import CheckpointError, WrongType, nearest
from perturbify.files import check_output
from perturbify.surgery.noisy import Perturbed, noisy_sites, source_class
from perturbify.surgery.wrap import unwrap

KEY = "perturbify"
_ABOUT = ("classes", "method", "recipe", "trained", "check")


def describe(model: Perturbed) -> Header:
    """The header of a perturbed network, as far as the network itself knows it.

    Raises:
        CheckpointError: Its inputs cannot be described.
        SurgeryError: It was changed after wrapping, so that a site is gone.
    """
    surgery = model.surgery
    plan = surgery.plan
    kind = source_class(model)
    noisy_sites(model)
    if not surgery.inputs:
        raise CheckpointError(
            f"{kind.__name__} takes inputs that a file cannot describe: they are not tensors, numbers, strings, or "
            "lists or dicts of these.",
            "Save its state_dict() instead.",
        )
    spec = zoo.describe(model) or zoo.describe(unwrap(model))  # timm's models are recognised only by their source
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = str(first.dtype if first is not None else torch.float32).removeprefix("torch.")
    normalize = None
    if surgery.normalizes:
        normalize = {"mean": model.normalize.mean.flatten().tolist(), "std": model.normalize.std.flatten().tolist()}
    return Header(
        model=spec.to_dict() if spec else None,
        source_class=f"{kind.__module__}.{kind.__qualname__}",
        inputs=dict(surgery.inputs),
        dtype=dtype,
        dtypes=other_dtypes(model.state_dict(), dtype),
        config=asdict(plan.config) if plan.config else None,
        sites=[
            {"name": s.name, "path": s.path, "map_shape": list(s.map_shape), "theta_shape": list(s.theta_shape)}
            for s in plan.sites
        ],
        normalize=normalize,
        method=surgery.method,
        versions=versions(),
    )


def save(model: nn.Module, path: str | Path, *, overwrite: bool = False, **about: Any) -> Header:
    """Writes a perturbed network to one safetensors file, atomically.

    Args:
        model: What :func:`perturbify.wrap` or :func:`perturbify.load` returned.
        path: The file to write.
        overwrite: Whether an existing file may be replaced.
        **about: Further fields of :class:`Header` (``classes``, ``method``, ``recipe``, ``trained``, ``check``).

    Returns:
        The header that was written.

    Raises:
        CheckpointError: ``model`` is not a perturbed network.
        WrongType: A field of ``about`` is none.
        OutputExists: The file exists.
        PerturbifyError: The file cannot be written.
    """
    check_path(path, "save", "the file to be", "Give the network first: save(network, path).")
    path = Path(path)
    if not isinstance(model, Perturbed):
        raise CheckpointError(f"{type(model).__name__} is not a wrapped network.", "Call perturbify.wrap(model) first.")
    check_output(path, force=overwrite)
    state = model.state_dict()
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} is not written: {key} is a {type(tensor).__name__}, not a tensor.")
        if tensor.is_meta or is_lazy(tensor):
            raise CheckpointError(f"{path} is not written: {key} has no values yet.", "Run the network once.")
    tensors, aliases = unique_tensors(state)
    unknown = about.keys() - {field.name for field in fields(Header)}
    if unknown:
        raise WrongType(
            f"A file has no field {min(unknown)!r}.", nearest(min(unknown), _ABOUT) or f"There are {', '.join(_ABOUT)}."
        )
    header = replace(describe(model), aliases=aliases, **about)
    text = header.to_json()
    check_file(header, Contents({}, tensors, container.shapes(tensors)), path)
    check_arguments(header, container.shapes(tensors), f"{path} is not written")
    check_values(model, state, f"{path} is not written")
    check_answers(model, header, f"{path} is not written")
    container.write(path, tensors, {KEY: text})
    return Header.from_json(text, path)


def read(path: str | Path) -> tuple[Header, Contents]:
    """Reads a whole file, without building its network, and makes sure that it is consistent.

    Returns:
        Its header and its contents.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, newer, changed after it was written, or contradicts
            itself.
    """
    path = Path(path)
    contents = container.read(path)
    header = _header_of(contents.metadata, path)
    if header.format > 1 and not contents.sealed:
        raise CheckpointError(f"{path} has lost its seal.", "Download it again.")
    check_file(header, contents, path)
    return header, contents


def read_header(path: str | Path) -> Header:
    """Reads a file's header, without its tensors.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, or newer.
    """
    path = Path(path)
    contents = container.peek(path)
    header = _header_of(contents.metadata, path)
    check_file(header, contents, path)
    return header


def _header_of(metadata: Mapping[str, str], path: Path) -> Header:
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a perturbify checkpoint.",
            "Load plain weights into a named model: --model NAME --weights FILE.",
        )
    return Header.from_json(metadata[KEY], path)


def annotate(path: str | Path, **about: Any) -> Header:
    """Changes fields of a file's header (such as ``check``) and keeps its tensors.

    Raises:
        CheckpointError: The file cannot be read.
        PerturbifyError: The file cannot be written.
    """
    path = Path(path)
    header, contents = read(path)
    dtypes = other_dtypes(contents.tensors, header.dtype)
    text = replace(header, format=FORMAT, dtypes=dtypes, **about).to_json()
    container.write(path, contents.tensors, {**contents.metadata, KEY: text})
    return Header.from_json(text, path)


def unique_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Splits a state dict into tensors to store and keys that share one of them (tied weights)."""
    holders: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in state.items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (key,)
        if holders.setdefault(place, key) != key:
            aliases[key] = holders[place]
            continue
        stored = value.detach().cpu().contiguous()
        storage = stored.untyped_storage().data_ptr()
        # A view of another tensor becomes a tensor of its own, since the file cannot hold views.
        kept[key] = stored.clone() if storage in storages else stored
        storages.add(storage)
    return kept, aliases
