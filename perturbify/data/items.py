"""An item of a user's dataset: an image and a label, checked before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perturbify.data.images import Unreadable, as_rgb, decoding
from perturbify.errors import DataError

IMAGES = ("image", "images", "pixel_values", "img", "x", "jpg", "png")
LABELS = ("label", "labels", "target", "targets", "y", "class", "cls", "fine_label")
_ROUNDING = 1e-5  # by which resized floats may leave [0, 1]


def pairs_of(item: Any) -> tuple[Tensor, Tensor]:
    """The image and label of an item, or the images and labels of a batch.

    Args:
        item: A pair, or a dict with an image and a label under a usual name; the image is a tensor, an array or a
            Pillow image.

    Returns:
        Floats of shape (B, C, H, W) in [0, 1], and labels, int64 of shape (B,).

    Raises:
        DataError: It is something else; the message says what.
    """
    if isinstance(item, Mapping):
        keys = [next((key for key in names if key in item), None) for names in (IMAGES, LABELS)]
        if None in keys:
            raise DataError(
                f"An item is a dict with the keys {', '.join(map(str, item))}, without an image and a label.",
                'Name them "image" and "label".',
            )
        image, label = (item[key] for key in keys)
    elif isinstance(item, Sequence | np.ndarray) and not isinstance(item, str) and len(item) >= 2:
        image, label = item[0], item[1]
    else:
        raise _no_pair(item)
    x = _pixels(image, item)
    try:
        y = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The images come as {type(item).__name__} with the label {label!r:.80}, which is not a number.",
            "Number the classes from 0.",
        ) from error
    if x.dim() == 3:
        x, y = x[None], y[None] if y.dim() == 0 else y
    return check_pixels(x), check_labels(x, y)


def _no_pair(item: Any) -> DataError:
    return DataError(
        f"The items are of type {type(item).__name__}, not pairs of tensors: an image and a label.",
        "Return tensors: a dataset needs a transform such as torchvision.transforms.ToTensor().",
    )


def _pixels(image: Any, item: Any) -> Tensor:
    """An image or a batch of images, unchecked."""
    if isinstance(image, Image.Image):
        from torchvision.transforms.v2 import functional as F

        try:
            with decoding():
                return F.pil_to_tensor(as_rgb(image)).float().div_(255)
        except Unreadable as error:
            raise DataError(f"An image cannot be read: {error.reason}.", error.hint) from error
    try:
        return torch.as_tensor(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_pair(item) from error


def check_pixels(x: Tensor) -> Tensor:
    """Makes sure that a batch holds pixels in [0, 1].

    Args:
        x: The batch, unchecked.

    Returns:
        The same, shape (B, C, H, W), floating.

    Raises:
        DataError: It has another shape or type, or values outside [0, 1].
    """
    x = x.detach()
    if x.dim() != 4:
        raise DataError(
            f"Images of shape {tuple(x.shape)} are not a batch (N, C, H, W).",
            "Pass images (N, C, H, W); grey ones have one channel: x[:, None].",
        )
    _, channels, height, width = x.shape
    if width in (1, 3, 4) and channels not in (1, 3, 4) and height > 4:
        raise DataError(
            f"Images of shape {tuple(x.shape)} have their channels last.", "Put them first: x.permute(0, 3, 1, 2)."
        )
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise DataError(
            f"The pixels are {kind}, but a network takes floats in [0, 1].",
            "Pass x.float() / 255." if x.dtype == torch.uint8 else "Pass floats in [0, 1].",
        )
    if not x.numel():
        return x
    low, high = float(x.min()), float(x.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        why = ": they seem to be normalised already" if low < 0 else ""
        raise DataError(
            f"The pixels range from {low:.3g} to {high:.3g}, not within [0, 1]{why}.",
            "Pass pixels in [0, 1], x / 255 if they go up to 255; the normalisation belongs in the network: "
            "perturbify.Normalize(mean, std) before it, --mean and --std on the command line.",
        )
    return x if low >= 0 and high <= 1 else x.clamp(0, 1)


def check_labels(x: Tensor, y: Tensor) -> Tensor:
    """Makes sure that each image has a label, a whole number from 0.

    Args:
        x: The images, shape (B, C, H, W).
        y: Their labels, unchecked.

    Returns:
        int64 of shape (B,).

    Raises:
        DataError: An image has none.
    """
    y = y.detach()
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    mismatch = f"Images of shape {tuple(x.shape)} do not match labels of shape {tuple(y.shape)} and type {y.dtype}"
    if y.dim() == 2:
        raise DataError(f"{mismatch}: a label is one number.", "Convert one-hot labels with y.argmax(1).")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.dim() != 1 or len(y) != len(x):
        raise DataError(f"{mismatch}.", "Pass images (N, C, H, W) and whole numbers (N,): y.long().")
    y = y.long().cpu()
    if len(y) and int(y.min()) < 0:
        raise DataError(f"There is a negative label, {int(y.min())}.", "Number the classes from 0.")
    return y
