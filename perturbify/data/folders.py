"""The user's own images in class folders: which files there are, each once, and nothing that is no file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from perturbify.data.bundle import Data, assemble
from perturbify.data.images import kind, open_rgb
from perturbify.data.names import check_class_names
from perturbify.data.split import DecodedSplit
from perturbify.errors import DataError

DEFAULT_SIZE = 224
# "val" comes before "test" because ImageNet-like sets keep unlabelled images in the latter.
_TEST_FOLDERS = ("val", "validation", "test")
# torchvision's: what a file's name ends in says that it is an image, its content says which kind.
_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def load_folder(path: Path, image_size: int) -> Data:
    """Finds images in ``train/CLASS/…`` and ``val/CLASS/…`` (or ``validation``, or ``test``).

    Links are followed, except back to where they come from; a file that is reached twice counts once.

    Args:
        path: The folder that holds the two.
        image_size: Side of the square that the images are fitted to, in pixels.

    Returns:
        The dataset, decoded on the fly; its classes are called as their folders are.

    Raises:
        DataError: A folder is missing, cannot be read, or holds no images, the two differ in their classes or share a
            file, a file belongs to two classes, or what is called an image is no file.
    """
    test_folder = next((part for part in _TEST_FOLDERS if (path / part).is_dir()), None)
    if not (path / "train").is_dir() or test_folder is None:
        raise DataError(
            f"{path} has no folder {'val/ or test/' if (path / 'train').is_dir() else 'train/'}.",
            "An image folder holds train/CLASS/… and val/CLASS/… or test/CLASS/….",
        )
    if (path / "train").samefile(path / test_folder):
        raise DataError(
            f"train and {test_folder} in {path} are the same folder.",
            "Figures measured on training images say nothing: put others there.",
        )
    train, test = ImageFiles(path / "train"), ImageFiles(path / test_folder)
    if train.classes != test.classes:
        only = {
            "train": sorted(set(train.classes) - set(test.classes)),
            test_folder: sorted(set(test.classes) - set(train.classes)),
        }
        found = "; ".join(f"only {part}/ has {', '.join(names)}" for part, names in only.items() if names)
        raise DataError(f"The two parts of {path} differ in their classes: {found}.")
    _check_apart(train, test)
    splits = [DecodedSplit(part, part.labels, image_size) for part in (train, test)]
    return assemble(f"folder:{path.resolve().name}", splits, tuple(train.classes), (image_size, image_size))


class ImageFiles:
    """The images of one part of an image folder, in the order of their classes, folders and names.

    Args:
        root: The folder that holds the class folders.

    Attributes:
        classes: The names of the class folders, sorted.
        samples: Path and label of each image.
        numbers: The inode of each, 0 where the file system has none.

    Raises:
        DataError: As for :func:`load_folder`.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        folders = _class_folders(self.root)
        self.classes = list(folders)
        check_class_names(str(root), self.classes, fold_case=True)
        found = [
            (os.path.join(*place), label, number)  # noqa: PTH118 (millions of paths)
            for label, folder in enumerate(folders.values())
            for place, number in sorted(_files(folder, os.path.realpath(root)))
        ]
        numbers = np.array([number for _, _, number in found], np.uint64)
        kept = np.ones(len(found), bool)
        kept[_twice([(path, label) for path, label, _ in found], numbers)] = False
        self.numbers = numbers[kept]
        self.samples = [(path, label) for (path, label, _), keep in zip(found, kept, strict=True) if keep]
        full = {label for _, label in self.samples}
        empty = [name for label, name in enumerate(self.classes) if label not in full]
        if empty:
            raise DataError(f"There are no images in {root} for {', '.join(empty)}.", "Fill or remove the folder.")

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        path, label = self.samples[row]
        return open_rgb(path), label

    @property
    def labels(self) -> torch.Tensor:
        """The class of each image, int64 of shape (N,)."""
        return torch.tensor([label for _, label in self.samples], dtype=torch.int64)


def _class_folders(root: str) -> dict[str, str]:
    """Names and paths of the class folders, sorted by name."""
    found = {entry.name: entry.path for entry in _entries(root) if _is_folder(entry)}
    if not found:
        raise DataError(f"{root} has no class folders.", "Its images belong into one folder a class.")
    here = os.path.realpath(root)
    places: dict[str, str] = {}
    for path in sorted(found.values()):
        place = os.path.realpath(path)
        if os.path.islink(path) and (_within(here, place) or _within(place, here)):  # noqa: PTH114 (str throughout)
            raise DataError(
                f"The class folder {path} is a link to {place}, whose images have other classes.",
                "Remove it, or put the class's own images there.",
            )
        if place in places:
            raise DataError(
                f"The class folders {places[place]} and {path} are the same folder.", "Remove one of the two."
            )
        places[place] = path
    return dict(sorted(found.items()))


def _files(top: str, part: str) -> Iterator[tuple[tuple[str, str], int]]:
    """Folder, name and inode of each image under a class folder; ``part`` is the real path of all classes' folder."""
    folders, seen = [top], {_identity(top)}
    while folders:
        folder = folders.pop()
        below = []
        for entry in _entries(folder):
            if _is_folder(entry):
                if not (entry.is_symlink() and _leads_back(entry.path, folder, part)):
                    below.append(entry.path)
            elif entry.name.lower().endswith(_ENDINGS):
                yield (folder, entry.name), _number(entry)
        for path in sorted(below, reverse=True):
            if (identity := _identity(path)) not in seen:
                seen.add(identity)
                folders.append(path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unusable(folder, error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        if entry.is_dir():
            return True
        if entry.is_symlink() and not os.path.splitext(entry.name)[1]:  # noqa: PTH122 (millions of names)
            entry.stat()  # what may have been a folder is not lost without a word
        return False
    except OSError as error:
        raise _unusable(entry.path, error) from error


def _number(entry: os.DirEntry[str]) -> int:
    """The inode of an image; known from the folder itself, without a look at each file, unless it is a link."""
    try:
        if entry.is_file():
            return entry.stat().st_ino if entry.is_symlink() else entry.inode()
        raise DataError(
            f"{entry.path} is {kind(entry.stat().st_mode)}, not an image file.", "Remove it, or give it another name."
        )
    except OSError as error:
        raise _unusable(entry.path, error) from error


def _unusable(path: str, error: OSError) -> DataError:
    if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):  # noqa: PTH114 (str throughout)
        return DataError(f"{path} is a link that leads nowhere.", "Remove it, or put back what it leads to.")
    return DataError(f"{path} cannot be read: {error.strerror or error}.")


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 (millions of paths)
    except OSError as error:
        raise _unusable(path, error) from error
    return found.st_dev, found.st_ino


def _leads_back(link: str, folder: str, part: str) -> bool:
    """Whether a link leads to a folder that it lies in, or to where the part's images are found anyway."""
    place = os.path.realpath(link)
    return _within(os.path.realpath(folder), place) or _within(place, part)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _twice(found: list[tuple[str, int]], numbers: np.ndarray) -> list[int]:
    """Indices of the paths by which a file is reached again; an inode's number alone may be that of two files."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    first: dict[tuple[int, int], int] = {}
    again = []
    for index in np.flatnonzero((counts[inverse] > 1) & (numbers != 0)).tolist():
        path, label = found[index]
        before, label_before = found[first.setdefault(_identity(path), index)]
        if label != label_before:
            raise DataError(f"{before} and {path} are one file, in two classes.", "Remove one of the two.")
        if path != before:
            again.append(index)
    return again


def _check_apart(train: ImageFiles, test: ImageFiles) -> None:
    common = np.intersect1d(train.numbers, test.numbers)
    common = common[common != 0]
    inside, outside = (
        {_identity(path): path for path in (part.samples[i][0] for i in np.flatnonzero(np.isin(part.numbers, common)))}
        for part in (train, test)
    )
    if both := sorted(inside.keys() & outside.keys(), key=lambda identity: outside[identity]):
        raise DataError(
            f"{outside[both[0]]} is the same file as {inside[both[0]]}:"
            f" {len(both):,} of the {len(test.samples):,} test images are training images.",
            "Figures measured on training images say nothing: keep the two parts apart.",
        )
