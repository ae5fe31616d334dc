"""One part of a dataset, held in memory or decoded on the fly."""

from __future__ import annotations

import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perturbify.data.fingerprint import digest_of_files, digest_of_pixels
from perturbify.data.images import Unreadable, as_rgb, decoding, fit, fit_all
from perturbify.errors import DataError

# Starting worker processes costs more than decoding this many images.
_TINY = 256


class Split(ABC):
    """Images with labels, in a fixed order: uint8 in storage, floats in [0, 1] when read.

    Attributes:
        labels: The class of each image, int64 of shape (N,); known without decoding an image.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Reads the images batch by batch, without touching torch's global random state.

        Args:
            batch_size: Images a batch, at least 1; the last batch may hold fewer.
            order: Indices of the images to read, in that order, int64; all of them by default.
            start: How many batches of that order to skip without reading them, to continue an epoch.

        Yields:
            Pixels, float32 of shape (B, C, H, W) in [0, 1], and their labels, int64 of shape (B,).

        Raises:
            DataError: An image cannot be decoded; names its file.
        """
        order = torch.arange(len(self)) if order is None else order.cpu()
        chunks = order.split(batch_size)[start:] if len(order) else ()
        for chunk, pixels in zip(chunks, self._read(chunks), strict=True):
            yield pixels.float().div_(255), self.labels[chunk]

    @property
    @abstractmethod
    def bytes(self) -> int | None:
        """What the pixels take in memory; None where they are decoded when they are asked for."""

    @abstractmethod
    def to(self, device: torch.device) -> Split:
        """The images, their pixels on a device; those that are decoded when they are asked for stay where they are."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Split:
        """The images at ``indices`` (int64), in that order."""

    @abstractmethod
    def digest(self) -> str:
        """A hash by which the same images and labels are known again, wherever they lie: 32 hexadecimal digits."""

    def balanced(self, n: int) -> Split:
        """A small part of the split with as many images of each class as possible.

        The first image of each class comes first, then the second of each, and so on until ``n`` are
        found; no chance is involved, and a smaller part lies within a larger one.

        Args:
            n: How many images, at least 1; all of them when ``n`` is no less than the split holds.

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
            n: How many, at least 1 and less than there are.

        Returns:
            The other images, and those, both in ascending order of their index.

        Raises:
            DataError: ``n`` leaves nothing on one side.
        """
        if not 1 <= n < len(self):
            raise DataError(f"{n} of {len(self)} images cannot be kept apart: both parts need some.")
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
        """Yields uint8 images of shape (B, C, H, W) for each chunk of indices."""


class MemorySplit(Split):
    """A split whose pixels lie in one tensor.

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
        """Takes over arrays as most files hold them.

        Args:
            pixels: uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3); grey is repeated three times.
            labels: Integers of shape (N,).
            image_size: Side to fit the images to, in pixels; ``None`` leaves their size.
        """
        images = as_tensor(pixels)
        split = cls(images.expand(-1, 3, -1, -1), torch.from_numpy(labels.astype(np.int64)))
        if image_size is not None and len(images):
            split._digest = split.digest()  # of what came: how fitting rounds may depend on the machine
            split.images = fit_all(images, image_size).expand(-1, 3, -1, -1)
        return split

    @property
    def bytes(self) -> int:
        """What the pixels take in memory."""
        return self.images.nbytes

    def to(self, device: torch.device) -> MemorySplit:
        """The images, their pixels on a device; batches come from there."""
        return MemorySplit(self.images.to(device), self.labels)

    def subset(self, indices: Tensor) -> MemorySplit:
        """The images at ``indices`` (int64), in that order."""
        return MemorySplit(self.images[indices.to(self.images.device)], self.labels[indices])

    def digest(self) -> str:
        """A hash of the labels, and of the pixels before they were fitted; of many pixels, of a sample."""
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
    """A split whose pixels are floats already, as a user's own tensors are.

    Args:
        images: Floating, shape (N, C, H, W), in [0, 1].
        labels: int64 of shape (N,).
    """

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Reads the images batch by batch, as they are."""
        order = torch.arange(len(self)) if order is None else order.cpu()
        for chunk in order.split(batch_size)[start:] if len(order) else ():
            yield self.images[chunk].float(), self.labels[chunk]

    def to(self, device: torch.device) -> FloatSplit:
        """The images, their pixels on a device; batches come from there."""
        return FloatSplit(self.images.to(device), self.labels)

    def subset(self, indices: Tensor) -> FloatSplit:
        """The images at ``indices`` (int64), in that order."""
        return FloatSplit(self.images[indices], self.labels[indices])


class DecodedSplit(Split):
    """A split whose images are decoded, resized and cropped when they are asked for.

    Args:
        dataset: Gives ``(PIL image, label)`` for an index; its ``samples`` or ``filename()``, if it has one
            of them, say which file an image comes from.
        labels: int64 of shape (N,).
        image_size: Side of the square that the images are fitted to, in pixels.
        rows: The index within ``dataset`` of each image, int64 of shape (N,); 0..N-1 by default.
        workers: Processes that decode; by default up to four, and none for a handful of images.
    """

    def __init__(
        self,
        dataset: Any,
        labels: Tensor,
        image_size: int,
        *,
        rows: Tensor | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(labels)
        self.dataset = dataset
        self.image_size = image_size
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.workers = workers

    @property
    def bytes(self) -> None:
        """Nothing is held."""
        return None

    def to(self, device: torch.device) -> DecodedSplit:
        """Itself: the images are where they are decoded."""
        return self

    def subset(self, indices: Tensor) -> DecodedSplit:
        """The images at ``indices`` (int64), in that order."""
        return DecodedSplit(
            self.dataset,
            self.labels[indices],
            self.image_size,
            rows=self.rows[indices],
            workers=self.workers,
        )

    def digest(self) -> str:
        """A hash of the labels, and of the files' names within the dataset and sizes, where it says its files."""
        samples, root = getattr(self.dataset, "samples", None), str(getattr(self.dataset, "root", ""))
        paths = [] if samples is None else [str(samples[row][0]) for row in self.rows.tolist()]
        names = [path.removeprefix(root).replace(os.sep, "/").lstrip("/") for path in paths]
        return digest_of_files(self.labels, names, paths)

    def _read(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        workers = self.workers
        if workers is None:
            workers = 0 if sum(map(len, chunks)) <= _TINY else min(4, _cpu_count())
        loader: DataLoader[Tensor | DataError] = DataLoader(
            _Decoder(self.dataset, self.image_size),
            sampler=[self.rows[chunk].tolist() for chunk in chunks],
            batch_size=None,  # an item of the sampler is a whole batch already
            num_workers=workers,
            # The loader draws a seed for its workers; from the global generator that draw would make a run
            # that was resumed in mid-epoch differ from one that was not.
            generator=torch.Generator(),
            worker_init_fn=_outlive_sigterm,
            # Pinned memory is copied to a GPU while that computes.
            pin_memory=workers > 0 and torch.cuda.is_available(),
        )
        for batch in _lasting(loader):
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _lasting(loader: DataLoader[Tensor | DataError]) -> Iterator[Tensor | DataError]:
    """What a loader yields, where the end of one of its processes is an error that says so."""
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        batches = iter(loader)
    except OSError as error:
        raise DataError(f"No process can be started to decode images: {error.strerror or error}.") from error
    if loader.num_workers and handler is not None and threading.current_thread() is threading.main_thread():
        # torch's handler would raise in the middle of whatever runs when a worker ends; without it, the end is seen
        # by whoever waits for the batch.
        signal.signal(signal.SIGCHLD, handler)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                "A process that decodes images was ended from outside, as systems do where memory runs out.",
                "Free memory; in a container, give it more, shared memory too (docker run --shm-size=8g).",
            ) from error
        yield batch


def _outlive_sigterm(_worker: int) -> None:
    """Leaves SIGTERM, which may go to a whole group of processes, to the one that has something to save.

    A worker ends with its parent, or when its batches are done.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Decoder(Dataset[Tensor | DataError]):
    """Decodes whole batches, in this process or a worker."""

    def __init__(self, dataset: Any, image_size: int) -> None:
        self.dataset = dataset
        self.image_size = image_size

    def __getitem__(self, rows: list[int]) -> Tensor | DataError:
        # Returned, not raised: an error that crosses from a worker is rewritten as its whole traceback.
        try:
            return torch.stack([self._decode(row) for row in rows])
        except DataError as error:
            return error

    def _decode(self, row: int) -> Tensor:
        from torchvision.transforms.v2 import functional as F

        try:
            with decoding():
                return fit(F.pil_to_tensor(as_rgb(self.dataset[row][0])), self.image_size)
        except Unreadable as error:
            raise DataError(f"The image {self._file(row)} cannot be decoded: {error.reason}.", error.hint) from error

    def _file(self, row: int) -> str:
        if hasattr(self.dataset, "samples"):
            return str(self.dataset.samples[row][0])
        if hasattr(self.dataset, "filename"):
            return str(self.dataset.filename(row))
        return f"number {row}"


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Images of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3) as a tensor of shape (N, C, H, W)."""
    images = torch.from_numpy(pixels)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _cpu_count() -> int:
    """The CPUs this process may use, which on shared machines are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
