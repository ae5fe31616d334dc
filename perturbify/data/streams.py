"""WebDataset's shards, which cannot be indexed: read once into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perturbify.data.bundle import Data, assemble
from perturbify.data.images import Unreadable, as_rgb, decoding, fit
from perturbify.data.looking import size_for
from perturbify.data.split import MemorySplit
from perturbify.data.stored import memory_to_use
from perturbify.errors import DataError
from perturbify.text import times

_LOOKED_AT = 16


def load_streams(
    name: str, streams: tuple[Any, Any], image_size: int | None, default_size: int | None, names: tuple[str, ...] | None
) -> Data:
    """Reads two streams that timm opened, training and test, into memory.

    Args:
        name: Name of the dataset.
        streams: Both yield ``(PIL image, label)`` and have a ``len``.
        image_size: As for :func:`perturbify.data.load`.
        default_size: As for :func:`perturbify.data.load`.
        names: Names of the classes; None numbers them.

    Raises:
        DataError: They need more memory than there is, their images differ in size and none was requested, or some
            could not be read.
    """
    some = islice(_images(name, streams[0]), _LOOKED_AT)
    sizes = {(image.height, image.width): f"image {number}" for number, (image, _) in enumerate(some)}
    side, fitted, said = size_for(name, sizes, image_size, default_size)
    splits = [_read(name, stream, side, fitted) for stream in streams]
    classes = names or tuple(map(str, range(int(splits[0].labels.max()) + 1)))
    return assemble(name, splits, classes, side, notes=(said, "The shards are read into memory."))


def _read(name: str, stream: Any, side: tuple[int, int], fitted: int | None) -> MemorySplit:
    from torchvision.transforms.v2 import functional as F

    pixels: list[Tensor] = []
    labels: list[int] = []
    most = memory_to_use() // (3 * side[0] * side[1])
    for number, (image, label) in enumerate(_images(name, stream)):
        if number >= most:
            raise DataError(
                f"{name} holds more than the {most:,} images of {times(side)} that fit into memory.",
                "A stream cannot be indexed, so all of it is read: unpack it into an image folder.",
            )
        try:
            with decoding():
                x = F.pil_to_tensor(as_rgb(image))
        except Unreadable as error:
            raise DataError(f"Image {number} of {name} cannot be decoded: {error.reason}.", error.hint) from error
        if fitted is None and tuple(x.shape[1:]) != side:
            raise DataError(
                f"Image {number} of {name} is {times(x.shape[1:])}, but others are {times(side)}.",
                "Set the size to fit them to: --image-size N (image_size=N).",
            )
        pixels.append(x if fitted is None else fit(x, fitted))
        labels.append(label)
    said = len(stream)
    if len(pixels) < said:
        raise DataError(f"Only {len(pixels):,} of the {said:,} images that {name} should have could be read.")
    if not pixels:
        raise DataError(f"{name} has a split without images.")
    return MemorySplit(torch.stack(pixels), torch.tensor(labels))


def _images(name: str, stream: Any) -> Iterator[tuple[Image.Image, int]]:
    try:
        for image, label in stream:
            yield image, int(label)
    except DataError:
        raise
    except Exception as error:  # the libraries behind it each fail in their own way
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise DataError(
            f"{name} cannot be read: {reason}.", "An item needs an image (jpg, png, webp) and a cls."
        ) from error
