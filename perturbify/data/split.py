"""One part of a dataset, held in memory or decoded on the fly."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perturbify.data.fingerprint import digest_of_files, digest_of_pixels
from perturbify.data.images import Unreadable, as_rgb, decoding, fit, fit_all
from perturbify.data.workers import read_in_workers
from perturbify.errors import DataError
from perturbify.text import times


class Split(ABC):
    """Images with labels, in a fixed order: stored as uint8 or floats, read as floats in [0, 1].

    Attributes:
        labels: The class of each image, int64 of shape (N,); known without decoding any image.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Reads the images batch by batch, without touching torch's global random state.

        Args:
            batch_size: Images a batch, at least 1; the last batch may hold fewer.
            order: Indices of the images to read, in that order, int64; all of them by default.
            start: How many batches of that order to skip without reading them, to resume an epoch.

        Yields:
            Pixels, float32 of shape (B, C, H, W) in [0, 1], and their labels, int64 of shape (B,).

        Raises:
            DataError: An image cannot be decoded; the message names its file.
        """
        order = torch.arange(len(self)) if order is None else order.cpu()
        chunks = order.split(batch_size)[start:] if len(order) else ()
        for chunk, pixels in zip(chunks, self._read(chunks), strict=True):
            yield as_floats(pixels), self.labels[chunk]

    @property
    @abstractmethod
    def bytes(self) -> int | None:
        """Size of the pixels in memory; None if they are decoded on demand."""

    @abstractmethod
    def to(self, device: torch.device) -> Split:
        """The split with its pixels on a device; images decoded on demand stay where they are."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Split:
        """The images at ``indices`` (int64), in that order."""

    @abstractmethod
    def digest(self) -> str:
        """A hash that identifies the images and labels, wherever they are: 32 hexadecimal digits."""

    def balanced(self, n: int) -> Split:
        """A small part of the split with as many images of each class as possible.

        The first image of each class comes first, then the second of each, and so on until there are ``n``; nothing is
        random, and a larger part contains every smaller one.

        Args:
            n: How many images, at least 1; all if the split has no more than ``n``.

        Returns:
            ``n`` images in ascending order of their index.

        Raises:
            DataError: ``n`` is less than 1.
        """
        if n < 1:
            raise DataError(f"A part of a dataset needs at least one image, not {n}.")
        return self if n >= len(self) else self.subset(self._by_rank()[:n].sort().values)

    def divided(self, n: int) -> tuple[Split, Split]:
        """Takes :meth:`balanced` images out of the split.

        Args:
            n: How many, at least 1 and fewer than there are.

        Returns:
            The remaining images and the ones taken out, both in ascending order of their index.

        Raises:
            DataError: ``n`` leaves one side empty.
        """
        if not 1 <= n < len(self):
            raise DataError(f"{n} of {len(self)} images cannot be held out: both parts need at least one.")
        taken = torch.zeros(len(self), dtype=torch.bool)
        taken[self._by_rank()[:n]] = True
        return self.subset((~taken).nonzero().flatten()), self.subset(taken.nonzero().flatten())

    def interleaved(self) -> Split:
        """All images, the first of each class, then the second of each, and so on: the first n are balanced."""
        return self.subset(self._by_rank())

    def _by_rank(self) -> Tensor:
        by_class = self.labels.argsort(stable=True)
        sizes = self.labels.bincount()
        first_of_class = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        rank_in_class = torch.arange(len(self)) - first_of_class
        return by_class[rank_in_class.argsort(stable=True)]

    @abstractmethod
    def _read(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields the pixels of each chunk of indices, shape (B, C, H, W): uint8, or floats in [0, 1]."""


def as_floats(pixels: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1]: uint8 is divided by 255, floats stay as they are."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float()


class MemorySplit(Split):
    """A split whose pixels are in one tensor.

    Args:
        images: uint8 of shape (N, C, H, W).
        labels: int64 of shape (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(labels)
        self.images = images
        self._digest: str | None = None

    @classmethod
    def from_numpy(cls, pixels: np.ndarray, labels: np.ndarray, image_size: int | None) -> MemorySplit:
        """Makes a split from arrays in the layout of most files.

        Args:
            pixels: uint8 of shape (N, H, W) or (N, H, W, C).
            labels: Integers of shape (N,).
            image_size: Side to fit the images to, in pixels; ``None`` keeps their size.
        """
        images = as_tensor(pixels)
        split = cls(images, torch.from_numpy(labels.astype(np.int64)))
        if image_size is not None and len(images):
            split._digest = split.digest()  # of the originals: rounding in the fit may depend on the machine
            split.images = fit_all(images, image_size)
        return split

    @property
    def bytes(self) -> int:
        """Size of the pixels in memory."""
        return self.images.nbytes

    def to(self, device: torch.device) -> MemorySplit:
        """The split with its pixels on a device, where its batches are, too."""
        return MemorySplit(self.images.to(device), self.labels)

    def subset(self, indices: Tensor) -> MemorySplit:
        """The images at ``indices`` (int64), in that order."""
        return MemorySplit(self.images[indices.to(self.images.device)], self.labels[indices])

    def digest(self) -> str:
        """A hash of the labels and of the pixels before they were fitted (a sample of them, if there are many)."""
        return self._digest or digest_of_pixels(
            self.labels,
            tuple(self.images.shape[1:]),
            self.images.dtype,
            lambda chunk: self.images[chunk.to(self.images.device)],
        )

    def _read(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        for chunk in chunks:
            yield self.images[chunk.to(self.images.device)]


class FloatSplit(MemorySplit):
    """A split whose pixels are already floats, such as a user's own tensors.

    Args:
        images: Floating, shape (N, C, H, W), in [0, 1].
        labels: int64 of shape (N,).
    """

    def to(self, device: torch.device) -> FloatSplit:
        """The split with its pixels on a device, where its batches are, too."""
        return FloatSplit(self.images.to(device), self.labels)

    def subset(self, indices: Tensor) -> FloatSplit:
        """The images at ``indices`` (int64), in that order."""
        return FloatSplit(self.images[indices], self.labels[indices])


class OnDemandSplit(Split):
    """A split whose images a dataset returns when they are read, in this process or in workers.

    Args:
        dataset: Returns an image and its label for an index; its ``samples`` or ``filename()``, if any, name an image's
            file.
        labels: int64 of shape (N,).
        size: What its reader needs to know of the images' size.
        rows: The index within ``dataset`` of each image, int64 of shape (N,); 0..N-1 by default.
        workers: Processes that read the images; 0 reads them here, None takes up to four, and none for a few images.
    """

    def __init__(
        self, dataset: Any, labels: Tensor, size: Any, *, rows: Tensor | None = None, workers: int | None = None
    ) -> None:
        super().__init__(labels)
        self.dataset = dataset
        self.size = size
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.workers = workers

    @property
    def bytes(self) -> None:
        """None: the split holds no pixels."""
        return None

    def to(self, device: torch.device) -> Self:
        """The split itself: the images stay in the dataset."""
        return self

    def subset(self, indices: Tensor) -> Self:
        """The images at ``indices`` (int64), in that order."""
        labels, rows = self.labels[indices], self.rows[indices]
        return type(self)(self.dataset, labels, self.size, rows=rows, workers=self.workers)

    def digest(self) -> str:
        """A hash of the labels and, if the dataset names its files, of their names within it and sizes."""
        samples, root = getattr(self.dataset, "samples", None), str(getattr(self.dataset, "root", ""))
        paths = [] if samples is None else [str(samples[row][0]) for row in self.rows.tolist()]
        names = [path.removeprefix(root).replace(os.sep, "/").lstrip("/") for path in paths]
        return digest_of_files(self.labels, names, paths)

    def _read(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        rows = [self.rows[chunk].tolist() for chunk in chunks]
        return read_in_workers(self._reader(), rows, self.workers)

    @abstractmethod
    def _reader(self) -> Dataset[Tensor | DataError]:
        """Reads a batch for the list of its rows, in this process or a worker."""


class DecodedSplit(OnDemandSplit):
    """A split whose images are decoded, resized and cropped on demand.

    Its dataset returns PIL images; its ``size`` is the side of the square that they are fitted to, in pixels, or the
    (H, W) that they all have.
    """

    def _reader(self) -> Dataset[Tensor | DataError]:
        return _Decoder(self.dataset, self.size)


class _Decoder(Dataset[Tensor | DataError]):
    """Decodes whole batches, in this process or a worker."""

    def __init__(self, dataset: Any, size: int | tuple[int, int]) -> None:
        self.dataset = dataset
        self.size = size

    def __getitem__(self, rows: list[int]) -> Tensor | DataError:
        # Returned, not raised: an error from a worker would arrive as its whole traceback.
        try:
            return torch.stack([self._decode(row) for row in rows])
        except DataError as error:
            return error

    def _decode(self, row: int) -> Tensor:
        from torchvision.transforms.v2 import functional as F

        try:
            with decoding():
                pixels = F.pil_to_tensor(as_rgb(self.dataset[row][0]))
                if isinstance(self.size, int):
                    return fit(pixels, self.size)
        except Unreadable as error:
            raise DataError(f"The image {self._file(row)} cannot be decoded: {error.reason}.", error.hint) from error
        if pixels.shape[1:] != self.size:
            raise DataError(
                f"The image {self._file(row)} is {times(pixels.shape[1:])}, but others are {times(self.size)}.",
                "Set the size to fit them to: --image-size N (image_size=N).",
            )
        return pixels

    def _file(self, row: int) -> str:
        if hasattr(self.dataset, "samples"):
            return str(self.dataset.samples[row][0])
        if hasattr(self.dataset, "filename"):
            return str(self.dataset.filename(row))
        return f"number {row}"


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Images of shape (N, H, W) or (N, H, W, C) as a tensor of shape (N, C, H, W)."""
    images = torch.from_numpy(pixels)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
