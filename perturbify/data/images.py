"""From the bytes of an image file to a square of pixels, without ever taking much memory.

Whatever the file says, decoding and fitting one image takes at most 2 GB: a file of more than :data:`BYTES` bytes, or
whose header gives more than :data:`PIXELS` pixels, is refused, and no later step takes more.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from perturbify.data.headers import excess
from perturbify.text import first_line

PIXELS = 2**28 // 3
"""The most pixels of an image: a quarter of a gigabyte in RGB, which is also where Pillow begins to warn."""
BYTES = 2**28
"""The most bytes of an image file."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
"""The formats that are decoded, whatever the file's name. Of the others that Pillow knows, EPS starts a program."""
_AT_ONCE = 2**24  # pixels that are resized together
_ORIENTATION = 274  # EXIF's tag of the camera's orientation
_TIFF_TILE = (322, 323)  # the tags of a tile's width and height


class Unreadable(Exception):
    """A file that is not decoded.

    Args:
        reason: Why, to follow "cannot be decoded: ".
        hint: One sentence that says what to do.
    """

    def __init__(self, reason: str, hint: str = "Replace or remove it.") -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@contextmanager
def decoding() -> Iterator[None]:
    """Turns whatever a decoder raises into :class:`Unreadable`, and keeps its warnings off the terminal."""
    try:
        with warnings.catch_warnings():
            # Odd EXIF and the like do not affect the pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except Unreadable:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        # Pillow names the number of pixels, then its own limit.
        pixels = int(next(iter(re.findall(r"\d+", str(error))), PIXELS + 1))
        raise _too_large(f"it has {pixels:,} pixels, more than {PIXELS:,}") from error
    except MemoryError as error:
        raise Unreadable("memory ran out", "Free memory, or make the image smaller.") from error
    except OSError as error:
        raise Unreadable(error.strerror or first_line(error)) from error
    except Exception as error:  # decoders raise all kinds of things on a broken file
        reason, name = first_line(error), type(error).__name__
        raise Unreadable(reason if reason == name else f"{name}: {reason}") from error


def open_rgb(path: str) -> Image.Image:
    """Decodes an image file to eight-bit RGB.

    Raises:
        Unreadable: It is not a regular file, too large, or not an image.
    """
    with decoding(), open(path, "rb", opener=without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(f"it is {kind(found.st_mode)}, not a file")
        if found.st_size > BYTES:
            raise _too_large(f"the file has {found.st_size:,} bytes, more than {BYTES:,}")
        return decode(file.read(found.st_size))


def without_waiting(path: str, flags: int) -> int:
    """Opens a file as ``open`` does, but does not block on a pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def kind(mode: int) -> str:
    """What something other than a regular file is, by its ``st_mode``."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def decode(content: bytes) -> Image.Image:
    """Decodes the content of an image file to eight-bit RGB; only the first of several frames.

    Raises:
        Unreadable: It is too large, or its format is not in :data:`FORMATS`.
    """
    with decoding():
        if found := excess(content):
            raise Unreadable(f"it has {found}")
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except (UnidentifiedImageError, ImportError) as error:  # ultralytics appends its own decoder
            raise Unreadable(f"it is damaged, or its format is none of {', '.join(FORMATS)}") from error
        with image:
            width, height = image.size
            if image.format == "TIFF":
                # A tile is decoded whole, even if the image shows little of it.
                width, height = (
                    max(side, image.tag_v2.get(tag, 0))  # type: ignore[attr-defined]
                    for side, tag in zip((width, height), _TIFF_TILE, strict=True)
                )
            if width * height > PIXELS:
                raise _too_large(f"it has {width:,}×{height:,} pixels, more than {PIXELS:,} in all")
            return as_rgb(_turned(image), image.format)


def turned_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an image after the rotation in its EXIF; its pixels are not decoded."""
    width, height = image.size
    # Pillow rotates a TIFF by itself, and gives its size after that.
    sideways = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if sideways else (height, width)


def _turned(image: Image.Image) -> Image.Image:
    """The image, rotated as its EXIF says."""
    try:
        return ImageOps.exif_transpose(image)
    except (MemoryError, OSError):  # of the pixels
        raise
    except Exception:  # broken EXIF, which does not affect the pixels
        return image


def _too_large(reason: str) -> Unreadable:
    return Unreadable(reason, "Make it smaller, or remove it.")


def as_rgb(image: Image.Image, file_format: str | None = None) -> Image.Image:
    """Converts an image of any mode to eight-bit RGB; transparency is dropped.

    Args:
        image: The image.
        file_format: Format of its file, if the image no longer says it.

    Raises:
        Unreadable: It is unknown which value is white: integers of more than 16 bits, or floats outside [0, 1].
    """
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip every value above 255 to white.
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode, file_format or image.format))
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str, kind_of_file: str | None) -> np.ndarray:
    """Scales deep grey to uint8 by the range that its format declares."""
    if mode.startswith("I;16") or (mode == "I" and kind_of_file in ("PPM", "PNG")):  # PGM's and PNG's go up to 65,535
        return (values >> 8).astype(np.uint8)
    low, high = values.min(), values.max()
    if mode == "F" and low >= 0 and high <= 1:
        return (255 * values).round().astype(np.uint8)
    holds = "floats" if mode == "F" else "32-bit integers"
    raise Unreadable(
        f"it holds {holds} from {low:g} to {high:g}, and nothing says which value is white",
        "Save it with 8 or 16 bits, or as floats in [0, 1].",
    )


def fit(images: Tensor, size: int) -> Tensor:
    """Resizes the shorter side to ``size`` (bilinear, antialiased) and crops the centre.

    Args:
        images: uint8 of shape (..., C, H, W).
        size: Side of the square, in pixels.

    Returns:
        uint8 of shape (..., C, size, size).
    """
    from torchvision.transforms.v2 import functional as F

    shorter, longer = sorted(images.shape[-2:])
    if size * int(size * longer / shorter) > PIXELS:
        return _fit_strips(images, size)
    # Contiguous: a mere view of its centre would keep all of the resized image.
    return F.center_crop(F.resize(images, [size], antialias=True), [size, size]).contiguous()


def fit_all(images: Tensor, size: int) -> Tensor:
    """The same as :func:`fit`, a few images of (N, C, H, W) at a time, so that memory holds little but the squares."""
    fitted = torch.empty((*images.shape[:2], size, size), dtype=images.dtype)
    shorter, longer = sorted(images.shape[2:])
    at_once = max(1, _AT_ONCE // (size * int(size * longer / shorter)))
    for start in range(0, len(images), at_once):
        fitted[start : start + at_once] = fit(images[start : start + at_once], size)
    return fitted


def _fit_strips(images: Tensor, size: int) -> Tensor:
    """The same, up to rounding, for images too long to be resized whole: computes only the centre."""
    height, width = images.shape[-2:]
    shorter, longer = sorted((height, width))
    whole = int(size * longer / shorter)
    start = round((whole - size) / 2) * longer / whole
    stop = min(start + size * longer / whole, longer)
    box = (0, start, width, stop) if height > width else (start, 0, stop, height)
    done = torch.empty((*images.shape[:-2], size, size), dtype=torch.uint8)
    # By channel, as grey images have only one.
    for source, target in zip(images.reshape(-1, height, width), done.view(-1, size, size), strict=True):
        plane = Image.fromarray(source.contiguous().numpy())
        target.copy_(torch.from_numpy(np.array(plane.resize((size, size), Image.Resampling.BILINEAR, box=box))))
    return done
