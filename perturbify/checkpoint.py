"""One safetensors file that is the whole model: weights, θ, and in its metadata what it is.

The file's tensors are the network's state dict under the source network's own keys, plus
``<convolution>.perturb.theta`` for each site, plus ``normalize.mean`` and ``normalize.std`` where a normalisation layer
is inside. The metadata has one entry, ``perturbify``: a JSON object with the fields of
:class:`perturbify.header.Header`. docs/checkpoint.md describes it for other readers.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from perturbify import zoo
from perturbify.errors import CheckpointError, nearest
from perturbify.example import from_description
from perturbify.files import check_output, replace_atomically
from perturbify.header import DTYPES, Header
from perturbify.methods.wrapping import for_method
from perturbify.surgery.noisy import Perturbed, noisy_sites, source_class
from perturbify.surgery.wrap import unwrap, wrap

KEY = "perturbify"
T = TypeVar("T")


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
            f"{kind.__name__} takes inputs that a file cannot describe: they are neither tensors, numbers, texts, nor "
            "lists or dicts of such.",
            "Keep its state_dict() instead.",
        )
    spec = zoo.describe(model) or zoo.describe(unwrap(model))  # timm's models are known by their source alone
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
        config=asdict(plan.config) if plan.config else None,
        sites=[
            {"name": s.name, "path": s.path, "map_shape": list(s.map_shape), "theta_shape": list(s.theta_shape)}
            for s in plan.sites
        ],
        normalize=normalize,
        method=surgery.method,
        versions={p: importlib.metadata.version(p) for p in ("perturbify", "torch", "torchvision", "timm")},
    )


def save(model: nn.Module, path: str | Path, *, overwrite: bool = False, **about: Any) -> Header:
    """Writes a perturbed network to one safetensors file, in one move.

    Args:
        model: What :func:`perturbify.wrap` or :func:`perturbify.load` returned.
        path: The file to be.
        overwrite: Whether an existing file may be replaced.
        **about: Further fields of :class:`Header` (``classes``, ``method``, ``recipe``, ``trained``, ``check``).

    Returns:
        The header that was written.

    Raises:
        CheckpointError: ``model`` is not a perturbed network.
        OutputExists: The file exists.
        PerturbifyError: The file cannot be written.
    """
    path = Path(path)
    if not isinstance(model, Perturbed):
        raise CheckpointError(f"{type(model).__name__} is not a wrapped network.", "Call perturbify.wrap(model) first.")
    check_output(path, force=overwrite)
    tensors, aliases = unique_tensors(model.state_dict())
    text = replace(describe(model), aliases=aliases, **about).to_json()
    header = Header.from_json(text, path)
    write_tensors(path, tensors, {KEY: text})
    return header


def load(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    device: torch.device | str = "cpu",
    trust_factory: bool = False,
) -> Perturbed:
    """Reads a network back: with its noise, in eval mode, and the noise is on.

    The architecture is built anew and operated on anew, so what is loaded has been verified on this machine and with
    these library versions.

    Args:
        path: A file that :func:`save` wrote.
        model: The source network, where the file does not know how to build it (networks made outside of the zoo);
            it is left as it is.
        device: Where it shall live.
        trust_factory: Whether a factory of the user's that the file names (``package.module:factory``) may be run.
            Such a file runs code of its writer's choosing; those with timm, torchvision and our own models never do.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, newer, does not fit the network, or names a factory
            that is not trusted.
        ModelError, SurgeryError: The network cannot be built or wrapped here.
    """
    path = Path(path)
    metadata, tensors = read_file(path)
    header = header_of(metadata, path)
    network = build(header, path, model, trust_factory=trust_factory)
    load_tensors(network, tensors, header, path)
    return network.to(device).eval()


def read_header(path: str | Path) -> Header:
    """Reads what a file says of itself, without its tensors.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, or newer.
    """
    path = Path(path)
    return header_of(read_metadata(path), path)


def header_of(metadata: Mapping[str, str], path: Path) -> Header:
    """The header in a file's metadata.

    Raises:
        CheckpointError: It is not one of our files, or a newer one.
    """
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file, but not one of perturbify's.",
            "Plain weights go with a model's name: --weights FILE.",
        )
    return Header.from_json(metadata[KEY], path)


def build(header: Header, path: Path, model: nn.Module | None = None, *, trust_factory: bool = False) -> Perturbed:
    """Builds the network a header describes, with fresh weights.

    Args:
        header: From :func:`read_header`.
        path: The file, for messages.
        model: The source network, where the header does not know it.
        trust_factory: As for :func:`load`.

    Raises:
        CheckpointError: A factory is not trusted, or the source network is needed, or has other sites than the file.
    """
    if model is None:
        spec = header.spec()
        if spec is None:
            raise CheckpointError(
                f"{path} does not say how to build its network, a {header.source_class}.",
                "Pass that network: perturbify.load(path, model=network).",
            )
        if spec.name.split(":")[0] not in zoo.LIBRARIES and not trust_factory:
            raise CheckpointError(
                f"{path} wants to run {spec.name} to build its network.",
                "If you trust the file, pass trust_factory=True (--trust-factory), or pass the network yourself.",
            )
        model = zoo.build(spec)
    else:
        model = copy.deepcopy(model)
    dtype = DTYPES[header.dtype]
    model = model.to("cpu", dtype)
    example = from_description(header.inputs, dtype)
    network = wrap(model, header.settings(), example_input=example, normalize=header.normalization())
    for_method(network, header.method or ("learn2perturb" if network.surgery.plan.config else "none"))
    ours = sorted((s.path, list(s.theta_shape)) for s in network.surgery.plan.sites)
    theirs = sorted((s["path"], s["theta_shape"]) for s in header.sites)
    if ours != theirs:
        differing = next(((a, b) for a, b in zip(ours, theirs, strict=False) if a != b), None)
        other = differing and "{} {} here, {} {} there".format(*differing[0], *differing[1])
        raise CheckpointError(
            f"{path} has {len(theirs)} noise sites, its network has {len(ours)} here"
            + (f"; the first that differs: {other}." if other else "."),
            f"It was written with {', '.join(f'{k} {v}' for k, v in header.versions.items())}.",
        )
    return network


def load_tensors(network: Perturbed, tensors: Mapping[str, Tensor], header: Header, path: Path) -> None:
    """Fills a network from a file's tensors; every key must fit.

    Raises:
        CheckpointError: A key is missing, unexpected, or of another shape or kind of number.
    """
    stored = dict(tensors) | {alias: tensors[kept] for alias, kept in header.aliases.items() if kept in tensors}
    # The network's own dict, as it carries the modules' versions: without them, some take a file for an old one.
    state = network.state_dict(keep_vars=True)
    lacking, unknown = sorted(state.keys() - stored.keys()), sorted(stored.keys() - state.keys())
    if lacking or unknown:
        what = f"lacks {', '.join(lacking[:3])}" if lacking else f"has unknown {', '.join(unknown[:3])}"
        raise CheckpointError(f"{path} does not fit its network: it {what}.")
    for key, held in state.items():
        dtype = stored[key].dtype
        if dtype != held.dtype and not {dtype, held.dtype} <= set(DTYPES.values()):
            raise CheckpointError(f"{path} does not fit its network: {key} is {dtype}, not {held.dtype}.")
        held.data = held.data.to(dtype)
    state.update(stored)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(f"The tensors of {path} do not fit its network: {detail}") from error


def annotate(path: str | Path, **about: Any) -> Header:
    """Changes fields of a file's header (such as ``check``) and leaves its tensors as they are.

    Raises:
        CheckpointError: The file cannot be read.
        PerturbifyError: The file cannot be written.
    """
    path = Path(path)
    metadata, tensors = read_file(path)
    text = replace(header_of(metadata, path), **about).to_json()
    header = Header.from_json(text, path)
    write_tensors(path, tensors, metadata | {KEY: text})
    return header


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
        # A view of something else of the state dict becomes a tensor of its own; the file knows no views.
        kept[key] = stored.clone() if storage in storages else stored
        storages.add(storage)
    return kept, aliases


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file in one move."""

    def write(temporary: Path) -> None:
        try:
            # "format" is what other readers of safetensors files look for.
            save_file(tensors, temporary, metadata={"format": "pt", **metadata})
        except SafetensorError as error:
            raise OSError(" ".join(str(error).split())) from error

    replace_atomically(path, write)


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Reads the metadata and all tensors of any safetensors file, both of one writing.

    Raises:
        CheckpointError: The file is missing, truncated, or foreign.
    """

    def everything(file: Any) -> tuple[dict[str, str], dict[str, Tensor]]:
        return file.metadata() or {}, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118

    return _read(path, everything)


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the metadata of any safetensors file.

    Raises:
        CheckpointError: The file is missing, truncated, or foreign.
    """
    return _read(path, lambda file: file.metadata() or {})


def _read(path: Path, get: Callable[[Any], T]) -> T:
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
        raise CheckpointError(f"There is no file {path}.", nearest(path.name, siblings) or None)
    # safetensors opens a file twice, for its header and for its tensors: a run that saves its state may put
    # another one there in between.
    before = _writing(path)
    try:
        with safe_open(path, "pt") as file:
            found = get(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if _writing(path) != before:
            return _read(path, get)
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({' '.join(str(error).split())}).",
            "It is damaged or of another kind; fetch or convert it again.",
        ) from error
    return found if _writing(path) == before else _read(path, get)


def _writing(path: Path) -> tuple[int, ...]:
    """Which writing of a file it is that stands there now."""
    try:
        now = path.stat()
    except OSError:
        return ()
    return now.st_ino, now.st_mtime_ns, now.st_size
