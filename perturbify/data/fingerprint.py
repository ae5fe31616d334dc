"""Digests of pixels and of files, which show whether images are still the same."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

SAMPLE = 2**28
"""The most bytes of pixels that a digest reads, evenly spaced over the images: all of CIFAR, in about 0.4 s."""
SIZES = 2**17
"""The most files whose sizes a digest looks up, evenly spaced; it includes all names."""
_AT_ONCE = 2**24  # bytes of pixels


def digest_of_pixels(
    labels: Tensor, shape: tuple[int, ...], dtype: torch.dtype, read: Callable[[Tensor], Tensor]
) -> str:
    """A hash of images and labels that does not depend on their place.

    Grey images have the hash of the same with three equal channels.

    Args:
        labels: int64 of shape (N,).
        shape: (C, H, W) of an image.
        dtype: Type of a pixel.
        read: Returns the images at some indices, shape (B, C, H, W), on any device.

    Returns:
        32 hexadecimal digits.
    """
    shape = (3, *shape[1:]) if shape[0] == 1 else shape
    digest = _begin("pixels", labels, [*map(str, shape), str(dtype)])
    each = math.prod(shape) * dtype.itemsize
    for chunk in spread(len(labels), SAMPLE // each).split(max(1, _AT_ONCE // each)):
        pixels = read(chunk).cpu().expand(-1, shape[0], -1, -1)
        digest.update(pixels.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_files(labels: Tensor, names: Sequence[str], paths: Sequence[str]) -> str:
    """A hash of files and their labels, without reading any.

    Args:
        labels: int64 of shape (N,).
        names: Each file's name within the dataset.
        paths: Each file's path; its size goes into the hash if there are at most :data:`SIZES` files.

    Returns:
        32 hexadecimal digits.
    """
    sizes = []
    for index in spread(len(paths), SIZES).tolist():
        try:
            sizes.append(os.stat(paths[index]).st_size)  # noqa: PTH116 (a Path per file would double the time)
        except OSError:
            sizes.append(-1)  # reading it will raise the error
    return _begin("files", labels, [*names, *map(str, sizes)]).hexdigest()


def digest_of_texts(texts: Sequence[str]) -> str:
    """A hash of strings in order, 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def spread(n: int, most: int) -> Tensor:
    """Indices of at most ``most`` of n things, evenly spaced, with the first; at least one."""
    taken = min(n, max(1, most))
    return torch.arange(taken) * n // max(1, taken)


def _begin(kind: str, labels: Tensor, texts: Sequence[str]) -> blake2b:
    digest = blake2b(digest_size=16)
    digest.update(digest_of_texts([kind, str(len(labels)), *texts]).encode())
    digest.update(labels.numpy().astype("<i8").data)
    return digest
