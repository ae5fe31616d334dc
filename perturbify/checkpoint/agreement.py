"""Is a file consistent with itself and with its network? Checked before anything of its size is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from perturbify.checkpoint.container import Contents, Shape
from perturbify.checkpoint.header import DTYPES, Header
from perturbify.errors import CheckpointError
from perturbify.numbers import MOST_THETA
from perturbify.text import listed
from perturbify.zoo import LIBRARIES

SMALL = 10_000
"""Maximum sum of the numbers among a library builder's arguments, not counting sizes of the file's tensors."""
MOST_ARGUMENTS = 1_000
PLACING = {"device", "dtype", "quantize"}
"""Arguments that would put a network elsewhere than on the CPU, or change its type, from the start."""


def check_file(header: Header, contents: Contents, path: Path) -> None:
    """Checks a header against the names and shapes of the file's tensors, and against any tensors that were read.

    Raises:
        CheckpointError: They disagree, or a value cannot come from a network of ours.
    """
    for problem in _disagreements(header, contents):
        raise CheckpointError(f"{path} contradicts itself: {problem}.", "Download the file again.")


def check_fits(state: Mapping[str, Tensor], header: Header, shapes: Mapping[str, Shape], path: Path) -> None:
    """Checks the names and shapes of a file's tensors against a network's state dict, including θ and aliases.

    Raises:
        CheckpointError: One is missing, unexpected, or of another shape.
    """
    stored = dict(shapes) | {alias: shapes[kept] for alias, kept in header.aliases.items()}
    lacking, unknown = sorted(state.keys() - stored.keys()), sorted(stored.keys() - state.keys())
    if lacking or unknown:
        what = f"lacks {listed(lacking, 3)}" if lacking else f"has unknown keys: {listed(unknown, 3)}"
        raise CheckpointError(f"{path} does not fit its network: it {what}.")
    for key, held in state.items():
        if tuple(held.shape) != stored[key]:
            raise CheckpointError(
                f"{path} does not fit its network: {key} has shape {list(stored[key])}, not {list(held.shape)}."
            )


def check_values(network: nn.Module, stored: Mapping[str, Tensor], about: str) -> None:
    """Makes sure that a network's tensors are finite where they must be.

    Args:
        network: The network, with its own values.
        stored: Its future state dict.
        about: Where the tensors come from, for the message.

    Raises:
        CheckpointError: A number is not finite where the network's own one is.
    """
    for key, held in network.state_dict(keep_vars=True).items():
        tensor = stored[key]
        if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
            continue
        # A mask that is built with the network may hold -inf.
        if isinstance(held, nn.Parameter) or bool((tensor.isfinite() != held.isfinite().to(tensor.device)).any()):
            raise CheckpointError(
                f"{about}: {int((~tensor.isfinite()).sum()):,} of {tensor.numel():,} numbers in {key} are not finite.",
                "Such a network outputs NaN; use an earlier checkpoint.",
            )


def check_arguments(header: Header, shapes: Mapping[str, Shape], about: str) -> None:
    """Makes sure that a library's builder is not asked for a larger network than the file's tensors can fill.

    Args:
        header: The file's header; a custom factory may take any arguments.
        shapes: Shapes of the file's tensors.
        about: Where the arguments come from, for the message.

    Raises:
        CheckpointError: It is asked for more.
    """
    if header.model is None or header.model["name"].split(":")[0] not in LIBRARIES:
        return
    given = header.model["kwargs"]
    sizes = {size for shape in shapes.values() if 0 not in shape for size in shape}
    values = list(_leaves(given))
    numbers = [abs(v) for v in values if isinstance(v, int | float) and v not in sizes]
    taken = sorted(PLACING & given.keys())
    problem = ""
    if taken:
        problem = f"is given {taken[0]!r}, which a file must not set"
    elif len(values) > MOST_ARGUMENTS or any(isinstance(v, str) and len(v) > MOST_ARGUMENTS for v in values):
        problem = f"is given more than {MOST_ARGUMENTS:,} arguments, or a string of that length"
    elif sum(numbers) > SMALL:
        problem = f"is given the number {max(numbers):.10g}, but no tensor has that size"
    if problem:
        raise CheckpointError(f"{about}: its network's builder {problem}.")


def _disagreements(header: Header, contents: Contents) -> Iterator[str]:
    """Yields what is wrong, each in a few words; later checks may rely on earlier ones."""
    shapes, tensors = contents.shapes, contents.tensors
    for alias, kept in header.aliases.items():
        if alias in shapes:
            yield f"{alias} is both an alias and a tensor"
        if kept not in shapes:
            yield f"the tensor {kept} is missing"
    for key, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and kind not in DTYPES:
            yield f"{key} is {kind}, which no network of ours has"
        if header.format > 1 and tensor.is_floating_point() and kind != header.dtypes.get(key, header.dtype):
            yield f"{key} is {kind}, but the header says {header.dtypes.get(key, header.dtype)}"
    for key in header.dtypes:
        if key not in shapes:
            yield f"it names a dtype for {key}, which is missing"
    for site in header.sites:
        key = header.aliases.get(f"{site['path']}.theta", f"{site['path']}.theta")
        if key not in shapes:
            yield f"the tensor {key} is missing"
        elif list(shapes[key]) != site["theta_shape"]:
            yield f"{key} has shape {list(shapes[key])}, but its site says {site['theta_shape']}"
        elif tensors:
            yield from _wrong_theta(key, tensors[key], header)
    for name, said in (header.normalize or {}).items():
        key = f"normalize.{name}"
        if shapes.get(key) != (len(said), 1, 1):
            yield f"{key} does not have the {len(said)} numbers that the header lists"
        elif tensors and not tensors[key].is_floating_point():
            yield f"{key} is {tensors[key].dtype}"
        elif tensors and tensors[key].flatten().tolist() != said:
            yield f"{key} differs from the header"


def _wrong_theta(key: str, theta: Tensor, header: Header) -> Iterator[str]:
    settings = header.settings()
    assert settings is not None  # since there are sites
    most = math.log(MOST_THETA) if settings.scale == "posterior" else MOST_THETA
    if not theta.is_floating_point():
        yield f"{key} is {theta.dtype}"
    elif not bool((theta.isfinite() & (theta <= most)).all()):
        yield f"{key} has entries that are not finite or greater than {most:.10g}"
    elif settings.theta_min is not None and bool((theta <= 0).any()):
        yield f"{key} must be positive, but is not"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for k, v in value.items():
            yield k
            yield from _leaves(v)
    elif isinstance(value, list):
        for v in value:
            yield from _leaves(v)
    else:
        yield value


def other_dtypes(state: Mapping[str, Tensor], dtype: str) -> dict[str, str]:
    """The dtype of each floating tensor that differs from ``dtype``."""
    kinds = {key: str(t.dtype).removeprefix("torch.") for key, t in state.items() if t.is_floating_point()}
    return {key: kind for key, kind in kinds.items() if kind != dtype}
