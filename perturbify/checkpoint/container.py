"""A sealed safetensors file: written atomically, and read only if it is complete, unchanged and within bounds.

The seal is a digest over everything else in the file: the metadata, and every tensor's name, dtype, shape and bytes.
docs/checkpoint.md says how it is computed. It proves that nothing was changed since the file was written, not who wrote
it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perturbify import strict_json
from perturbify.errors import CheckpointError, nearest
from perturbify.files import replace_atomically

SEAL = "perturbify-seal"
"""The metadata entry that holds the seal."""
_PLAIN = {SEAL, "format"}  # not sealed: the seal itself, and the entry that other readers look for

MOST_HEADER = 2**23
"""Maximum size in bytes of a safetensors file's own header, including names and metadata."""
MOST_TENSORS = 20_000

Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        metadata: Its text entries, without the seal.
        tensors: Its tensors by name; empty if they were not read.
        shapes: Their shapes by name.
        sealed: Whether there is a seal and it matches; False if the tensors were not read.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]
    sealed: bool = field(default=False)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, keep: Path | None = None) -> None:
    """Writes a sealed file atomically.

    Args:
        path: Destination; an existing file is replaced.
        tensors: On the CPU, contiguous, without views of each other.
        metadata: Text entries.
        keep: A second name under which to keep the previous file.

    Raises:
        PerturbifyError: The file cannot be written; the previous file is untouched.
    """
    entries = {"format": "pt", **metadata, SEAL: seal(metadata, tensors)}

    def save(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=entries)
        except SafetensorError as error:
            raise OSError(" ".join(str(error).split())) from error

    replace_atomically(path, save, keep)


def read(path: Path) -> Contents:
    """Reads a file, and checks it against its seal if it has one.

    Raises:
        CheckpointError: It is missing, truncated, foreign, changed after writing, or its header is too large.
    """

    def everything(file: Any) -> tuple[dict[str, str], dict[str, Tensor]]:
        return file.metadata() or {}, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118

    metadata, tensors = _read(path, everything)
    said = metadata.pop(SEAL, None)
    if said is not None and said != seal(metadata, tensors):
        raise CheckpointError(
            f"{path} was changed after it was written: its contents do not match its seal.",
            "Download it again.",
        )
    return Contents(metadata, tensors, shapes(tensors), said is not None)


def peek(path: Path) -> Contents:
    """Reads a file's metadata and the shapes of its tensors, whatever its size; the seal is not checked.

    Raises:
        CheckpointError: It is missing, truncated, foreign, or its header is too large.
    """

    def head(file: Any) -> tuple[dict[str, str], dict[str, Shape]]:
        return file.metadata() or {}, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    metadata, found = _read(path, head)
    metadata.pop(SEAL, None)
    return Contents(metadata, {}, found)


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shape of each tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def seal(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The digest over a file's metadata and tensors, as ``sha256:`` and 64 hexadecimal digits."""
    digest = hashlib.sha256()

    def add(piece: Any) -> None:
        view = memoryview(piece)
        digest.update(view.nbytes.to_bytes(8, "little"))
        digest.update(view)

    for key in sorted(metadata.keys() - _PLAIN):
        add(key.encode())
        add(metadata[key].encode())
    add(b"")
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        add(name.encode())
        add(str(tensor.dtype).removeprefix("torch.").encode())
        add("x".join(map(str, tensor.shape)).encode())
        add(tensor.reshape(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


def _read(path: Path, get: Callable[[Any], T]) -> T:
    while True:
        before = _writing(path)
        if not path.is_file():
            siblings = [p.name for p in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
            raise CheckpointError(f"There is no file {path}.", nearest(path.name, siblings) or None)
        try:
            _look(path)
            with safe_open(path, "pt") as file:
                found = get(file)
        except (SafetensorError, OSError, ValueError, TypeError, OverflowError, RuntimeError) as error:
            if _writing(path) == before:
                raise CheckpointError(
                    f"{path} is not a complete safetensors file ({' '.join(str(error).split())}).",
                    "It is damaged or of another format; download or convert it again.",
                ) from error
        else:
            if _writing(path) == before:
                return found
        # Opened several times: a run that saves its state may have replaced the file in between.


def _look(path: Path) -> None:
    """Makes sure, before a library reads a file's header, that its size is reasonable and no key is repeated.

    Raises:
        ValueError: It is too large, or a key is repeated.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError(f"its header has {length:,} bytes; the maximum is {MOST_HEADER:,}")
        text = file.read(length).decode()
    if len(strict_json.loads(text)) > MOST_TENSORS:
        raise ValueError(f"it has more than {MOST_TENSORS:,} tensors")


def _writing(path: Path) -> tuple[int, ...]:
    """Identifies the current version of a file."""
    try:
        now = path.stat()
    except OSError:
        return ()
    return now.st_ino, now.st_mtime_ns, now.st_size
