"""The user's own data: arrays in a .npz file, or images in class folders."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from perturbify.data.bundle import Data, assemble
from perturbify.data.split import DecodedSplit, MemorySplit, as_rgb
from perturbify.errors import DataError, nearest

DEFAULT_SIZE = 224
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
# "val" comes before "test" because ImageNet-like sets keep unlabelled images in the latter.
_TEST_FOLDERS = ("val", "validation", "test")


def load_npz(path: Path, image_size: int | None) -> Data:
    """Reads uint8 images and integer labels from the arrays x_train, y_train, x_test and y_test.

    An array ``classes`` of strings, which need not be there, names the classes.

    Args:
        path: The file.
        image_size: Side to fit the images to, in pixels; ``None`` leaves their size.

    Returns:
        The dataset, in memory; without names its classes are called "0", "1", ….

    Raises:
        DataError: An array is missing or of the wrong type or shape, or the labels do not number classes.
    """
    name = f"npz:{path.stem}"
    arrays = _read_npz(path)
    for part in ("train", "test"):
        _check_arrays(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    side = arrays["x_train"].shape[1:3]
    if image_size is None and arrays["x_test"].shape[1:3] != side:
        raise DataError(
            f"x_train and x_test in {path} differ in their images' size, {side} and {arrays['x_test'].shape[1:3]}.",
            "Give an image size to fit both to.",
        )
    labels = np.unique(arrays["y_train"])
    if not np.array_equal(labels, np.arange(len(labels))):
        raise DataError(
            f"y_train in {path} holds {len(labels)} different labels between {labels[0]} and {labels[-1]},"
            f" not 0 to {len(labels) - 1}.",
            "Number the classes from 0 without gaps.",
        )
    splits = [
        MemorySplit.from_numpy(arrays[f"x_{part}"], arrays[f"y_{part}"], image_size) for part in ("train", "test")
    ]
    height, width = side if image_size is None else (image_size, image_size)
    return assemble(name, splits, _class_names(path, arrays.get("classes"), labels), (height, width))


def _class_names(path: Path, given: np.ndarray | None, labels: np.ndarray) -> tuple[str, ...]:
    if given is None:
        return tuple(map(str, labels))
    if given.dtype.kind != "U" or given.shape != labels.shape:
        raise DataError(
            f"classes in {path} has the shape {given.shape} and holds {given.dtype}; y_train has {len(labels)} labels.",
            "Give one string a class, or leave it out.",
        )
    return tuple(map(str, given))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # numpy leaves a file that it opened itself open when it fails.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            for key in _ARRAYS:
                if key not in file:
                    raise DataError(
                        f"{path} has no array {key}.",
                        nearest(key, file) or f"It needs {', '.join(_ARRAYS)}.",
                    )
            return {key: file[key] for key in (*_ARRAYS, "classes") if key in file}
    # TypeError: a single array, under a name that promises several.
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as a .npz file without pickle: {error}.",
            "Write it with numpy.savez, from arrays of numbers only.",
        ) from error


def _check_arrays(path: Path, part: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.dtype != np.uint8:
        raise DataError(
            f"x_{part} in {path} holds {x.dtype}, not uint8 pixels from 0 to 255.",
            "Floats in [0, 1] become such by (255 * x).round().astype('uint8').",
        )
    if not (x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))) or 0 in x.shape[1:]:
        raise DataError(f"x_{part} in {path} has the shape {x.shape}, not (N, H, W), (N, H, W, 1) or (N, H, W, 3).")
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"y_{part} in {path} holds {y.dtype}, not integer labels.")
    if y.shape != x.shape[:1]:
        raise DataError(
            f"y_{part} in {path} has the shape {y.shape}, but x_{part} holds {len(x)} images:"
            " one label an image is needed."
        )


def load_folder(path: Path, image_size: int) -> Data:
    """Finds images in ``train/CLASS/…`` and ``val/CLASS/…`` (or ``validation``, or ``test``).

    Args:
        path: The folder that holds the two.
        image_size: Side of the square that the images are fitted to, in pixels.

    Returns:
        The dataset, decoded on the fly; its classes are called as their folders are.

    Raises:
        DataError: A folder is missing, holds no images, or the two differ in their classes.
    """
    test_folder = next((part for part in _TEST_FOLDERS if (path / part).is_dir()), None)
    if not (path / "train").is_dir() or test_folder is None:
        raise DataError(
            f"{path} has no folder {'val/ or test/' if (path / 'train').is_dir() else 'train/'}.",
            "An image folder holds train/CLASS/… and val/CLASS/… or test/CLASS/….",
        )
    train, test = _image_folder(path / "train"), _image_folder(path / test_folder)
    if train.classes != test.classes:
        only = {
            "train": sorted(set(train.classes) - set(test.classes)),
            test_folder: sorted(set(test.classes) - set(train.classes)),
        }
        found = "; ".join(f"only {part}/ has {', '.join(names)}" for part, names in only.items() if names)
        raise DataError(f"The two parts of {path} differ in their classes: {found}.")
    splits = [DecodedSplit(part, torch.tensor(part.targets), image_size) for part in (train, test)]
    return assemble(f"folder:{path.resolve().name}", splits, tuple(train.classes), (image_size, image_size))


def _image_folder(path: Path) -> Any:
    """torchvision's ImageFolder, where every class has an image."""
    from torchvision.datasets import ImageFolder

    try:
        dataset = ImageFolder(path, loader=_open_rgb, allow_empty=True)
    except OSError as error:
        raise DataError(f"{path} has no class folders.", "Its images belong into one folder a class.") from error
    full = set(dataset.targets)
    empty = [name for k, name in enumerate(dataset.classes) if k not in full]
    if empty:
        raise DataError(f"There are no images in {path} for {', '.join(empty)}.", "Fill or remove the folder.")
    return dataset


def _open_rgb(path: str) -> Image.Image:
    with Image.open(path) as image:
        return as_rgb(image)
