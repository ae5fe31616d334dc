"""Whatever else ``timm.data.create_dataset`` reads, as long as it can be indexed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from perturbify.data.builtin import HOW_TO_GET
from perturbify.data.bundle import Data, assemble
from perturbify.data.folders import load_folder
from perturbify.data.images import BYTES, Unreadable, decode, open_rgb
from perturbify.data.looking import at_images, size_for
from perturbify.data.names import told_apart
from perturbify.data.split import DecodedSplit, Split
from perturbify.data.stored import split_of
from perturbify.data.streams import load_streams
from perturbify.errors import DataError, nearest
from perturbify.text import first_line

_STREAMS = ("hfids", "tfds")
SCHEMES = ("torch", "hfds", "wds", *_STREAMS)
# For the hint only; timm decides.
_TORCH_NAMES = (
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "imagenet",
    "kmnist",
    "mnist",
    "places365",
    "qmnist",
)


def load_timm(
    name: str, root: Path, image_size: int | None, default_size: int | None, class_order: str | None, download: bool
) -> Data:
    """Loads the training and validation splits of a dataset that timm reads.

    Args:
        name: ``torch/NAME`` for one of torchvision's, ``wds/NAME`` for a folder of WebDataset's shards,
            ``hfds/NAME`` for one of the Hugging Face hub, whose library accesses the network whatever ``download``
            says.
        root: Folder of the files.
        image_size: Side to fit the images to, in pixels; by default their common size.
        default_size: The same, if they have no common size.
        class_order: For an image folder, as for :func:`perturbify.data.class_order.in_order`.
        download: Whether missing files may be fetched.

    Returns:
        The dataset.

    Raises:
        DataError: The dataset is a stream, cannot be built, or does not list its labels.
    """
    scheme = name.partition("/")[0]
    if scheme in _STREAMS:
        raise DataError(
            f"{name} is a stream that cannot be indexed, but training must shuffle and resume.",
            "Use a torch/, hfds/ or wds/ dataset, a .npz file or an image folder.",
        )
    if scheme == "wds":
        return _load_shards(name, root, image_size, default_size)
    if name in ("torch/folder", "torch/image_folder"):
        # Without a folder of a split's name, timm takes the whole root, even for both splits.
        return load_folder(root, image_size, default_size, class_order)
    if scheme == "hfds" and os.path.lexists(name.partition("/")[2]):
        # Its library would take it for the dataset, and older versions run the Python in it.
        raise DataError(f"{name} names a file or folder here, not a dataset of the hub.", "Name it without hfds/.")
    if scheme == "hfds" and importlib.util.find_spec("datasets") is None:
        raise DataError(f"{name} needs the package datasets.", "Install it with pip install datasets.")
    train = _create(name, root, "train", download)
    try:
        test = _create(name, root, "validation", download)
    except DataError:
        test = _create(name, root, "test", download)
    labels = [_labels(name, dataset) for dataset in (train, test)]
    classes = _classes(train, labels[0])
    if _is_array(train) and _is_array(test):
        pixels = [np.asarray(dataset.data) for dataset in (train, test)]
        arrays = [split_of(x, y, image_size) for x, y in zip(pixels, labels, strict=True)]
        height, width = pixels[0].shape[1:3]
        return assemble(name, arrays, classes, (height, width) if image_size is None else (image_size, image_size))
    images = [_ReaderImages(dataset) if hasattr(dataset, "reader") else dataset for dataset in (train, test)]
    looks = [at_images(part, len(y)) for part, y in zip(images, labels, strict=True)]
    side, fitted, said = size_for(name, {**looks[1].sizes, **looks[0].sizes}, image_size, default_size)
    splits: list[Split] = [
        DecodedSplit(part, torch.from_numpy(y), fitted or side) for part, y in zip(images, labels, strict=True)
    ]
    return assemble(name, splits, classes, side, notes=(said,))


def _load_shards(name: str, root: Path, image_size: int | None, default_size: int | None) -> Data:
    """WebDataset's shards in ``root``, or in its subfolder of that name, by their ``_info.json``."""
    if importlib.util.find_spec("webdataset") is None:
        raise DataError(f"{name} needs the package webdataset.", "Install it with pip install webdataset.")
    folder = (root / name.partition("/")[2]).resolve()
    if not any((folder / info).is_file() for info in ("_info.json", "info.json")):
        raise DataError(
            f"{name} has no _info.json in {folder}, which lists its splits.",
            "Name the shards' folder: --data wds/NAME, with --data-root above it.",
        )
    train = _create("wds/", folder, "train", False)
    try:
        test = _create("wds/", folder, "validation", False)
    except DataError:
        test = _create("wds/", folder, "test", False)
    return load_streams(name, (train, test), image_size, default_size, _named(train))


def _create(name: str, root: Path, split: str, download: bool) -> Any:
    from timm.data.dataset_factory import create_dataset

    try:
        dataset = create_dataset(name, root=str(root), split=split, download=download)
    except Exception as error:  # each library behind timm fails in its own way
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        guess = nearest(name.rpartition("/")[2], _TORCH_NAMES) if "Unknown" in reason else ""
        raise DataError(
            f"The {split} split of {name} cannot be loaded from {root}: {reason}.", guess or HOW_TO_GET
        ) from error
    if hasattr(dataset, "loader"):
        dataset.loader = open_rgb
    return dataset


def _labels(name: str, dataset: Any) -> np.ndarray:
    """The labels of all images, int64 of shape (N,), without decoding any."""
    try:
        if hasattr(dataset, "targets"):
            labels = np.asarray(dataset.targets)
            # QMNIST keeps the label in front of who wrote the digit, when and where.
            return (labels[:, 0] if labels.ndim == 2 else labels).astype(np.int64)
        if hasattr(dataset, "reader") and hasattr(dataset.reader, "iter_targets"):
            return np.fromiter(dataset.reader.iter_targets(), dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"The labels of {name} do not number classes: {first_line(error)}.") from error
    raise DataError(f"{name} does not list its labels without decoding all images.")


def _classes(dataset: Any, labels: np.ndarray) -> tuple[str, ...]:
    """Class names in the order of their labels; numbers if the dataset has no names."""
    if hasattr(dataset, "classes"):
        return told_apart(dataset.classes)
    return _named(dataset) or tuple(map(str, range(labels.max(initial=-1) + 1)))


def _named(dataset: Any) -> tuple[str, ...]:
    """Class names from timm's reader; empty if it has none."""
    index_of: dict[str, int] = getattr(dataset.reader, "class_to_idx", None) or {}
    return tuple(map(str, sorted(index_of, key=index_of.__getitem__)))


def _is_array(dataset: Any) -> bool:
    """Whether the dataset holds its pixels as one array in memory."""
    return isinstance(getattr(dataset, "data", None), np.ndarray | torch.Tensor)


class _ReaderImages:
    """The images behind timm's ``ImageDataset``, which would replace a broken one with its neighbour."""

    def __init__(self, dataset: Any) -> None:
        self.reader = dataset.reader

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, label = self.reader[index]
        with file:
            content = file.read(BYTES + 1)
        if len(content) > BYTES:
            raise Unreadable(f"the file has more than {BYTES:,} bytes", "Make it smaller, or remove it.")
        return decode(content), label

    def filename(self, index: int) -> str:
        return self.reader.filename(index)
