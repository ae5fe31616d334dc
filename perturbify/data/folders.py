"""The user's own images in class folders: finds each image file once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from perturbify.data.bundle import Data, assemble
from perturbify.data.class_order import in_order
from perturbify.data.images import kind, open_rgb
from perturbify.data.looking import at_files, size_for
from perturbify.data.names import check_class_names
from perturbify.data.split import DecodedSplit
from perturbify.errors import DataError

# "val" comes before "test" because ImageNet-like sets keep unlabelled images in the latter.
_TEST_FOLDERS = ("val", "validation", "test")
# torchvision's: the ending of a file's name says that it is an image, its content says which kind.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def load_folder(path: Path, image_size: int | None, default_size: int | None, class_order: str | None) -> Data:
    """Finds images in ``train/CLASS/…`` and ``val/CLASS/…`` (or ``validation``, or ``test``).

    Links are followed, except back to a folder that contains them; a file reached twice counts once. Hidden files and
    folders, and those left behind by archivers and file managers, are ignored.

    Args:
        path: The folder with both.
        image_size: Side of the square that the images are fitted to, in pixels; None: images of one common size keep
            it.
        default_size: The same, if they have no common size.
        class_order: As for :func:`perturbify.data.class_order.in_order`.

    Returns:
        The dataset, decoded on the fly; its classes have their folders' names.

    Raises:
        DataError: A folder is missing, cannot be read, or holds no images; the two differ in their classes or share a
            file; a file belongs to two classes; something named like an image is not a file; or the images have several
            sizes and none was requested.
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
            "Figures measured on training images mean nothing: put other images there.",
        )
    train, test = ImageFiles(path / "train"), ImageFiles(path / test_folder)
    if train.classes != test.classes:
        only = {
            "train": sorted(set(train.classes) - set(test.classes)),
            test_folder: sorted(set(test.classes) - set(train.classes)),
        }
        found = "; ".join(f"only {part}/ has {', '.join(names)}" for part, names in only.items() if names)
        raise DataError(f"The two splits of {path} have different classes: {found}.")
    _check_apart(train, test)
    classes, ordered = in_order(str(path), train.classes, class_order)
    for part in (train, test):
        part.reorder(classes)
    hidden = sorted(train.hidden | test.hidden)
    left_out = [f"Left out because hidden: {', '.join(hidden)}."] if hidden else []
    return of_files(
        f"folder:{path.resolve().name}",
        (train, test),
        tuple(classes),
        image_size,
        default_size,
        notes=(*ordered, *left_out),
    )


class Files(Protocol):
    """Image files with labels, as :class:`~perturbify.data.split.DecodedSplit` reads them."""

    samples: list[tuple[str, int]]

    @property
    def labels(self) -> torch.Tensor:
        """The class of each image, int64 of shape (N,)."""
        ...

    def __getitem__(self, row: int) -> tuple[Image.Image, int]: ...


def of_files(
    name: str,
    parts: tuple[Files, Files],
    classes: tuple[str, ...],
    image_size: int | None,
    default_size: int | None,
    *,
    notes: tuple[str, ...],
) -> Data:
    """A dataset of image files, with a training and a test split, after a look at their sizes.

    Args:
        name: Short name of the dataset.
        parts: The training files and the test files.
        classes: One name a class.
        image_size: As for :func:`load_folder`.
        default_size: As for :func:`load_folder`.
        notes: Notes so far.

    Raises:
        DataError: The images have several sizes and none was requested.
    """
    looks = [at_files([path for path, _ in part.samples]) for part in parts]
    sizes = {**looks[1].sizes, **looks[0].sizes}
    side, fitted, said = size_for(name, sizes, image_size, default_size)
    splits = [DecodedSplit(part, part.labels, fitted or side) for part in parts]
    unusual = dict.fromkeys(note for look in looks for note in look.notes)
    return assemble(name, splits, classes, side, notes=(*notes, said, *unusual))


class ImageFiles:
    """The images of one split of an image folder, ordered by class, folder and name.

    Args:
        root: The folder of the class folders.

    Attributes:
        classes: The names of the class folders, sorted.
        samples: Path and label of each image.
        hidden: The names of hidden folders, which are not classes.
        numbers: The inode of each, 0 if the file system has none.

    Raises:
        DataError: As for :func:`load_folder`.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        folders, self.hidden = _class_folders(self.root)
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

    def reorder(self, classes: list[str]) -> None:
        """Numbers the same classes in another order, and relabels the images."""
        if classes == self.classes:
            return
        label = [classes.index(name) for name in self.classes]
        order = sorted(range(len(self.samples)), key=lambda row: label[self.samples[row][1]])
        self.samples = [(self.samples[row][0], label[self.samples[row][1]]) for row in order]
        self.numbers, self.classes = self.numbers[order], classes


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's own: hidden, or left behind by an archiver or file manager."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "@eaDir")


def _class_folders(root: str) -> tuple[dict[str, str], set[str]]:
    """Names and paths of the class folders, sorted by name, and the names of hidden folders."""
    found, hidden = {}, set()
    for entry in _entries(root):
        if is_hidden(entry.name):
            hidden |= {entry.name} if entry.is_dir() else set()
        elif _is_folder(entry):
            found[entry.name] = entry.path
    if not found:
        raise DataError(f"{root} has no class folders.", "Put the images into one folder per class.")
    here = os.path.realpath(root)
    places: dict[str, str] = {}
    for path in sorted(found.values()):
        place = os.path.realpath(path)
        if os.path.islink(path) and (_within(here, place) or _within(place, here)):  # noqa: PTH114 (str throughout)
            raise DataError(
                f"The class folder {path} is a link to {place}, whose images belong to other classes.",
                "Remove it, or put the class's own images there.",
            )
        if place in places:
            raise DataError(
                f"The class folders {places[place]} and {path} are the same folder.", "Remove one of the two."
            )
        places[place] = path
    return dict(sorted(found.items())), hidden


def _files(top: str, part: str) -> Iterator[tuple[tuple[str, str], int]]:
    """Folder, name and inode of each image under a class folder; ``part`` is the real path of the split's folder."""
    folders, seen = [top], {_identity(top)}
    while folders:
        folder = folders.pop()
        below = []
        for entry in _entries(folder):
            if is_hidden(entry.name):
                continue
            if _is_folder(entry):
                if not (entry.is_symlink() and _leads_back(entry.path, folder, part)):
                    below.append(entry.path)
            elif entry.name.lower().endswith(ENDINGS):
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
            entry.stat()  # raises, as a link that may have been a folder must not be lost in silence
        return False
    except OSError as error:
        raise _unusable(entry.path, error) from error


def _number(entry: os.DirEntry[str]) -> int:
    """The inode of an image; known from the folder's own listing, unless it is a link."""
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
    """Whether a link leads to a folder that contains it, or to images of the split that are found anyway."""
    place = os.path.realpath(link)
    return _within(os.path.realpath(folder), place) or _within(place, part)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _twice(found: list[tuple[str, int]], numbers: np.ndarray) -> list[int]:
    """Indices of further paths to the same file; an inode number alone may belong to two files."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    first: dict[tuple[int, int], int] = {}
    again = []
    for index in np.flatnonzero((counts[inverse] > 1) & (numbers != 0)).tolist():
        path, label = found[index]
        before, label_before = found[first.setdefault(_identity(path), index)]
        if label != label_before:
            raise DataError(f"{before} and {path} are the same file, in two classes.", "Remove one of the two.")
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
            "Figures measured on training images mean nothing: keep the two splits apart.",
        )
