"""Arrays that stay in their file, or unfitted in memory, until their images are needed."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from perturbify.data.fingerprint import digest_of_pixels
from perturbify.data.images import fit, kind, without_waiting
from perturbify.data.split import MemorySplit, Split, as_tensor
from perturbify.errors import DataError

_AT_ONCE = 2**26  # bytes of pixels that are copied to a device together


@dataclass(frozen=True)
class Stamp:
    """Shows whether a file is still the same one."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, file: IO[bytes]) -> Stamp:
        """The stamp of an open file."""
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns)


@contextmanager
def opened(path: Path, stamp: Stamp | None = None) -> Iterator[IO[bytes]]:
    """Opens a regular file for reading.

    Args:
        path: The file.
        stamp: Its earlier stamp; None: any.

    Raises:
        DataError: There is no such file, it cannot be read, or its stamp has changed.
    """
    try:
        with open(path, "rb", buffering=0, opener=without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise DataError(f"{path} is {kind(mode)}, not a file.")
            if stamp is not None and Stamp.of(file) != stamp:
                raise DataError(f"{path} has changed since it was first opened.", "Start again without changing it.")
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


@dataclass(frozen=True)
class StoredImages:
    """Images that are stored in a file one after the other, as raw bytes.

    They are read image by image rather than mapped: truncating a mapped file would crash the process.

    Attributes:
        path: The file.
        offset: Where the first image begins, in bytes.
        shape: (N, H, W) or (N, H, W, C).
        stamp: The file's stamp when its header was read.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    stamp: Stamp

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The images at ``indices``, uint8.

        Raises:
            DataError: The file is gone or has changed.
        """
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        each = math.prod(self.shape[1:])
        with opened(self.path, self.stamp) as file:
            for image, index in zip(images, indices.tolist(), strict=True):
                file.seek(self.offset + index * each)
                if file.readinto(image) != each:  # type: ignore[attr-defined]
                    raise DataError(f"{self.path} ends before its image {index}.", "Write it again.")
        return images


class StoredSplit(Split):
    """A split whose pixels are read and fitted on demand.

    Args:
        pixels: uint8 of shape (N, H, W) or (N, H, W, C), in a file or in memory.
        labels: int64 of shape (N,).
        image_size: Side to fit the images to, in pixels; ``None`` leaves their size.
        rows: The index within ``pixels`` of each image, int64 of shape (N,); 0..N-1 by default.
    """

    def __init__(
        self,
        pixels: StoredImages | np.ndarray,
        labels: Tensor,
        image_size: int | None,
        *,
        rows: Tensor | None = None,
    ) -> None:
        super().__init__(labels)
        self.pixels = pixels
        self.image_size = image_size
        self.rows = torch.arange(len(labels)) if rows is None else rows

    @property
    def bytes(self) -> int:
        """Size of the pixels in memory, if they were loaded."""
        return len(self) * fitted_bytes(self.pixels.shape, self.image_size)

    def to(self, device: torch.device) -> MemorySplit:
        """The split, read and fitted, with its pixels on a device."""
        chunks = torch.arange(len(self)).split(max(1, _AT_ONCE // fitted_bytes(self.pixels.shape, self.image_size)))
        side = self.pixels.shape[1:3] if self.image_size is None else (self.image_size, self.image_size)
        images = torch.empty((len(self), _channels(self.pixels.shape), *side), dtype=torch.uint8, device=device)
        for chunk, pixels in zip(chunks, self._read(chunks), strict=True):
            images[chunk[0] : chunk[-1] + 1] = pixels.to(device)
        return MemorySplit(images, self.labels)

    def subset(self, indices: Tensor) -> StoredSplit:
        """The images at ``indices`` (int64), in that order."""
        return StoredSplit(self.pixels, self.labels[indices], self.image_size, rows=self.rows[indices])

    def digest(self) -> str:
        """A hash of the labels and of the pixels as stored (a sample of them, if there are many)."""
        shape = (_channels(self.pixels.shape), *self.pixels.shape[1:3])
        return digest_of_pixels(self.labels, shape, torch.uint8, self._stored)

    def _stored(self, chunk: Tensor) -> Tensor:
        return as_tensor(self.pixels[self.rows[chunk].numpy()])

    def _read(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        for chunk in chunks:
            images = self._stored(chunk)
            yield images if self.image_size is None else fit(images, self.image_size)


def fitted_bytes(shape: tuple[int, ...], image_size: int | None) -> int:
    """Size in bytes of one fitted image, from pixels of shape (N, H, W, …)."""
    return _channels(shape) * (math.prod(shape[1:3]) if image_size is None else image_size * image_size)


def _channels(shape: tuple[int, ...]) -> int:
    return shape[3] if len(shape) == 4 else 1


def split_of(pixels: StoredImages | np.ndarray, labels: np.ndarray, image_size: int | None) -> Split:
    """The split for arrays in the layout of most files: fitted and in memory, or if too large, left where they are.

    Args:
        pixels: uint8 of shape (N, H, W) or (N, H, W, C), in a file or in memory.
        labels: Integers of shape (N,).
        image_size: Side to fit the images to, in pixels; ``None`` leaves their size.
    """
    grows = image_size is not None and len(pixels) * fitted_bytes(pixels.shape, image_size) > memory_to_use()
    if isinstance(pixels, StoredImages) or grows:
        return StoredSplit(pixels, torch.from_numpy(labels.astype(np.int64)), image_size)
    return MemorySplit.from_numpy(pixels, labels, image_size)


def memory_to_use() -> int:
    """The most bytes for an array: a quarter of the memory available to this process."""
    limits = [2**35]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # in a container; "max" without a limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        limits += [] if soft == resource.RLIM_INFINITY else [soft]
    return min(limits) // 4
