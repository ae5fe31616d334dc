"""The user's own arrays, in a .npz file or as .npy files in a folder: their headers are read before anything else."""

from __future__ import annotations

import io
import math
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from perturbify.data.bundle import Data, assemble
from perturbify.data.images import PIXELS
from perturbify.data.names import LONGEST
from perturbify.data.stored import Stamp, StoredImages, memory_to_use, opened, split_of
from perturbify.errors import DataError, nearest
from perturbify.text import first_line

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
STAYS = 2**28
"""Images of more bytes than this stay in their file, if it holds them uncompressed."""
_KEYS = (*ARRAYS, "classes")
_HOW_TO_WRITE = "Write it with numpy.savez, from arrays of numbers only."
_MEMBERS = 1000  # of an archive
_MOST_CHANNELS = 1024  # of an image; hyperspectral cameras have some hundreds
_LONGEST_HEADER = 2**16  # bytes; numpy's have about a hundred
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # a zip file's before each member: its mark, and two lengths


def load_arrays(path: Path, image_size: int | None) -> Data:
    """Reads uint8 images and integer labels from the arrays x_train, y_train, x_test and y_test.

    An optional array ``classes`` of strings names the classes. More than 256 MiB of images stay in their file and are
    read batch by batch, if they are uncompressed and in C order.

    Args:
        path: A .npz file, or a folder with a .npy file for each array.
        image_size: Side to fit the images to, in pixels; ``None`` keeps their size.

    Returns:
        The dataset; without ``classes`` they are named "0", "1", ….

    Raises:
        DataError: An array is missing, has the wrong type or shape, or is too large for memory; the file is damaged; or
            the labels do not number the classes.
    """
    given, names = _in_folder(path) if path.is_dir() else _in_npz(path)
    for key in ARRAYS:
        if key not in given:
            raise DataError(f"{path} has no array {key}.", nearest(key, names) or f"It needs {', '.join(ARRAYS)}.")
    for part in ("train", "test"):
        _check_arrays(given[f"x_{part}"], given[f"y_{part}"])
    deep = [given[f"x_{part}"].shape[3:] or (1,) for part in ("train", "test")]
    if deep[0] != deep[1]:
        raise DataError(f"x_train in {path} has images with {deep[0][0]} channels, but x_test with {deep[1][0]}.")
    sides = [given[f"x_{part}"].shape[1:3] for part in ("train", "test")]
    if image_size is None and sides[0] != sides[1]:
        raise DataError(
            f"x_train and x_test in {path} have images of different sizes, {sides[0]} and {sides[1]}.",
            "Set an image size to which both are fitted.",
        )
    labels = {part: given[f"y_{part}"].read() for part in ("train", "test")}
    numbers = np.unique(labels["train"])
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise DataError(
            f"y_train in {path} holds {len(numbers)} different labels between {numbers[0]} and {numbers[-1]},"
            f" not 0 to {len(numbers) - 1}.",
            "Number the classes from 0 without gaps.",
        )
    classes = _class_names(given.get("classes"), len(numbers))
    splits = []
    for part, y in labels.items():
        if len(y) and int(y.max()) > np.iinfo(np.int64).max:
            raise DataError(f"y_{part} in {path} holds the label {y.max()}, but there are only {len(numbers)} classes.")
        splits.append(split_of(given[f"x_{part}"].images(), y, image_size))
    name = f"npy:{path.resolve().name}" if path.is_dir() else f"npz:{path.stem}"
    height, width = sides[0] if image_size is None else (image_size, image_size)
    return assemble(name, splits, classes, (height, width))


@dataclass(frozen=True)
class Header:
    """An array in a file whose header has been read.

    Attributes:
        path: The file.
        key: The array's name.
        stamp: The stamp of ``path`` when the header was read.
        member: The archive's entry; None for a .npy file.
        shape: Shape of the array, without negative sides.
        dtype: Type of its elements, never Python objects.
        fortran: Whether the first axis is the innermost.
        begins: Length of the header, in bytes.
        offset: Where the array's bytes begin in ``path``; None if they are compressed.
    """

    path: Path
    key: str
    stamp: Stamp
    member: zipfile.ZipInfo | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    begins: int
    offset: int | None

    def __str__(self) -> str:
        return f"{self.key} in {self.path}"

    @property
    def bytes(self) -> int:
        """Size of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def images(self) -> StoredImages | np.ndarray:
        """The array; left in its file if it is large and can stay there."""
        if self.offset is None or self.fortran or self.bytes <= STAYS:
            return self.read()
        return StoredImages(self.path, self.offset, self.shape, self.stamp)

    def read(self) -> np.ndarray:
        """The array in memory, verified against the archive's checksum.

        Raises:
            DataError: It does not fit into memory, or is damaged.
        """
        most = memory_to_use()
        if self.bytes > most:
            raise DataError(
                f"{self} needs {self.bytes / 2**30:,.1f} GiB of memory; only {most / 2**30:,.1f} GiB are available.",
                "Save it with numpy.savez, not savez_compressed, in C order: then it stays in its file.",
            )
        with opened(self.path, self.stamp) as file, _reading(self.path):
            flat = np.empty(self.bytes, np.uint8)
            if self.member is None:
                _fill(flat, file, self.begins)
            else:
                with zipfile.ZipFile(file) as archive, archive.open(self.member) as stream:
                    _fill(flat, stream, self.begins)
        return np.ndarray(self.shape, self.dtype, flat, order="F" if self.fortran else "C")


def _fill(flat: np.ndarray, stream: IO[bytes], begins: int) -> None:
    """Reads an array's bytes and makes sure that nothing follows; reading to the end verifies an archive's checksum."""
    stream.read(begins)  # read, not skipped: zipfile would not verify the checksum
    view, done = flat.data, 0
    while done < len(view):
        got = stream.readinto(view[done : done + 2**20])  # type: ignore[attr-defined]
        if not got:
            raise ValueError(f"it ends after {done:,} of {len(view):,} bytes")
        done += got
    if stream.read(1):
        raise ValueError("there is more after the array")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever numpy and zipfile raise on a foreign or damaged file into one sentence."""
    what = "a .npy file" if path.suffix == ".npy" else "a .npz file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers written by Python 2
            yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"Memory ran out while {path} was being read.", "Free some, or save smaller arrays.") from error
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as {what} without pickle: {first_line(error).rstrip('.')}.",
            _HOW_TO_WRITE,
        ) from error


def _in_folder(folder: Path) -> tuple[dict[str, Header], list[str]]:
    """The arrays in a folder by name, and the names of all its files."""
    given = {}
    for key in _KEYS:
        path = folder / f"{key}.npy"
        if not path.exists() and not path.is_symlink():
            continue
        with opened(path) as file, _reading(path):
            stamp = Stamp.of(file)
            given[key] = _read_header(file, path, key, stamp, None, stamp.size, 0)
    return given, [path.stem for path in islice(folder.glob("*.npy"), _MEMBERS)]


def _in_npz(path: Path) -> tuple[dict[str, Header], list[str]]:
    """The arrays in an archive by name, and the names of all its members."""
    given: dict[str, Header] = {}
    with opened(path) as file, _reading(path), zipfile.ZipFile(file) as archive:
        stamp = Stamp.of(file)
        infos = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
        if len(infos) > _MEMBERS:
            raise DataError(f"{path} holds {len(infos):,} files, more than {_MEMBERS:,}.", _HOW_TO_WRITE)
        for key, info in infos:
            if key not in _KEYS:
                continue
            if key in given:
                raise DataError(f"{path} holds {key} twice.", _HOW_TO_WRITE)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{key} is compressed in a way that numpy does not use")
            with archive.open(info) as stream:
                lies_at = _data_of(file, info)
                kept_as_is = info.compress_type == zipfile.ZIP_STORED
                if lies_at + info.compress_size > stamp.size or (kept_as_is and info.compress_size != info.file_size):
                    raise ValueError(f"the sizes of {key} in it contradict each other")
                given[key] = _read_header(
                    stream, path, key, stamp, info, info.file_size, lies_at if kept_as_is else None
                )
    return given, [key for key, _ in infos]


def _data_of(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a member's own bytes begin; zipfile has already compared its local header with the directory."""
    file.seek(info.header_offset)
    _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _read_header(
    stream: IO[bytes],
    path: Path,
    key: str,
    stamp: Stamp,
    member: zipfile.ZipInfo | None,
    size: int,
    lies_at: int | None,
) -> Header:
    """Reads an array's header from its own bytes, ``size`` in all.

    Raises:
        ValueError: It is damaged, holds Python objects, or its shape does not match the number of bytes.
    """
    head = io.BytesIO(stream.read(_LONGEST_HEADER))  # its length is in it
    version = npy.read_magic(head)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(head)
    else:
        raise ValueError(f"{key} has version {version}, which is for tables, not arrays")
    shape = tuple(map(int, shape))
    if dtype.hasobject:
        raise ValueError(f"{key} holds Python objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"{key} has the shape {shape}")
    begins = head.tell()
    offset = None if lies_at is None else lies_at + begins
    header = Header(path, key, stamp, member, shape, dtype, fortran, begins, offset)
    if begins + header.bytes != size:
        raise ValueError(
            f"{key} has the shape {shape} of {dtype}, {header.bytes:,} bytes, but the file holds {size - begins:,}"
        )
    return header


def _class_names(given: Header | None, classes: int) -> tuple[str, ...]:
    if given is None:
        return tuple(map(str, range(classes)))
    if given.dtype.kind != "U" or given.shape != (classes,):
        raise DataError(
            f"{given} has the shape {given.shape} and holds {given.dtype}; y_train has {classes} labels.",
            "Use one string a class, or leave the array out.",
        )
    if given.dtype.itemsize > 4 * LONGEST:
        raise DataError(
            f"{given} holds names of up to {given.dtype.itemsize // 4:,} characters, more than {LONGEST:,}.",
            "Use shorter ones.",
        )
    names = given.read()
    if names.dtype.itemsize and (names.view(names.dtype.str[0] + "u4") > sys.maxunicode).any():
        raise DataError(f"{given} holds invalid characters.", _HOW_TO_WRITE)
    return tuple(map(str, names))


def _channels_first(a: int, b: int, c: int) -> bool:
    """Whether an image's shape looks like (C, H, W) rather than (H, W, C)."""
    return (b == c != a) or (a < c and a != b and c not in (1, 3, 4))


def _check_arrays(x: Header, y: Header) -> None:
    if x.dtype != np.uint8:
        raise DataError(
            f"{x} holds {x.dtype}, not uint8 pixels from 0 to 255.",
            "Convert floats in [0, 1] with (255 * x).round().astype('uint8').",
        )
    if len(x.shape) not in (3, 4) or 0 in x.shape[1:]:
        raise DataError(f"{x} has the shape {x.shape}, not (N, H, W) or (N, H, W, C).")
    if len(x.shape) == 4 and _channels_first(*x.shape[1:]):
        raise DataError(
            f"{x} has the shape {x.shape}, which looks like (N, C, H, W), not (N, H, W) or (N, H, W, C).",
            "Put the channels last: x.transpose(0, 2, 3, 1).",
        )
    if len(x.shape) == 4 and x.shape[3] > _MOST_CHANNELS:
        raise DataError(f"{x} has the shape {x.shape}: {x.shape[3]:,} channels exceed the limit of {_MOST_CHANNELS:,}.")
    if math.prod(x.shape[1:3]) > PIXELS:
        raise DataError(f"{x} has images of {x.shape[1]:,}×{x.shape[2]:,} pixels, over the limit of {PIXELS:,} in all.")
    if y.dtype.kind not in "iu":
        raise DataError(f"{y} holds {y.dtype}, not integer labels.")
    if y.shape != x.shape[:1]:
        raise DataError(
            f"{y} has the shape {y.shape}, but {x.key} holds {x.shape[0]} images: one label an image is needed."
        )
