"""Image files listed in a table: .csv, .tsv or .parquet, one row per image."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perturbify.data.bundle import Data
from perturbify.data.class_order import in_order
from perturbify.data.folders import ENDINGS, of_files
from perturbify.data.images import open_rgb
from perturbify.data.names import check_class_names
from perturbify.errors import DataError, nearest
from perturbify.text import first_line

SUFFIXES = (".csv", ".tsv", ".parquet")
_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "target", "category", "class_name"),
    "split": ("split", "part", "subset", "set", "fold"),
}
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation", "dev")
_LONGEST_HEADER = 10_000  # characters that are looked at for the delimiter


@dataclass(frozen=True)
class _Row:
    number: int  # as an editor counts: the header is row 1
    path: str
    label: str
    part: str


@dataclass
class Named:
    """The image files listed in a manifest.

    Attributes:
        root: The manifest's folder.
        samples: Path and label of each image.
    """

    root: str
    samples: list[tuple[str, int]]

    @property
    def labels(self) -> Tensor:
        """The class of each image, int64 of shape (N,)."""
        return torch.tensor([label for _, label in self.samples], dtype=torch.int64)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        path, label = self.samples[row]
        return open_rgb(path), label


def load_manifest(path: Path, image_size: int | None, default_size: int | None, class_order: str | None) -> Data:
    """Reads a table with the columns path, label and split.

    Paths are relative to the manifest's folder and may not leave it; absolute paths are used as they are. Labels are
    names, or numbers from 0. The splits are ``train`` and ``test`` (or ``val``); if both exist, ``test`` is used.

    Args:
        path: The manifest.
        image_size: As for :func:`perturbify.data.folders.load_folder`.
        default_size: As for :func:`perturbify.data.folders.load_folder`.
        class_order: As for :func:`perturbify.data.class_order.in_order`; numeric labels have theirs.

    Raises:
        DataError: A column is missing, or a row is wrong; the message names it.
    """
    rows = list(_rows(path))
    parts = {part: [row for row in rows if row.part in names] for part, names in _parts(path, rows).items()}
    names = dict.fromkeys(row.label for row in rows)
    classes, notes = _classes(path, list(names), class_order)
    label = {name: number for number, name in enumerate(classes)}
    if all(_is_number(name) for name in names):
        label = {name: int(name) for name in names}
    place = path.resolve().parent
    _check_apart(path, parts["train"], parts["test"])
    train, test = (
        Named(str(place), [(_file(path, place, row), label[row.label]) for row in parts[part]])
        for part in ("train", "test")
    )
    left_out = len(rows) - len(train.samples) - len(test.samples)
    said = [f"Left out: {left_out:,} rows of other splits; the test split is {_called(parts['test'])}."]
    return of_files(
        f"manifest:{path.stem}",
        (train, test),
        tuple(classes),
        image_size,
        default_size,
        notes=(*notes, *(said if left_out else [])),
    )


def _called(rows: Sequence[_Row]) -> str:
    return rows[0].part


def _parts(path: Path, rows: Sequence[_Row]) -> dict[str, tuple[str, ...]]:
    """The values of the column split for training, and those for the test."""
    found = dict.fromkeys(row.part for row in rows)
    wrong = next((row for row in rows if row.part not in (*_TRAIN, *_TEST)), None)
    if wrong is not None:
        raise DataError(f"Row {wrong.number} of {path} has the split {wrong.part!r}.", "Use train, val or test.")
    test = next((name for name in _TEST if name in found), None)
    if test is None or not set(_TRAIN) & set(found):
        raise DataError(f"{path} has no rows with the split {'test or val' if test is None else 'train'}.")
    return {"train": _TRAIN, "test": (test,)}


def _classes(path: Path, names: list[str], class_order: str | None) -> tuple[list[str], tuple[str, ...]]:
    if all(_is_number(name) for name in names):
        last = max(map(int, names))
        if last >= 10 * len(names) + 1000:
            raise DataError(f"{path} holds {len(names)} different labels up to {last}.", "Number the classes from 0.")
        return [str(number) for number in range(last + 1)], ()
    check_class_names(str(path), sorted(names))
    return in_order(str(path), names, class_order)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _file(manifest: Path, place: Path, row: _Row) -> str:
    """The image of a row."""
    here = f"Row {row.number} of {manifest}"
    file = Path(row.path)
    if not file.is_absolute():
        file = place / file
        if ".." in Path(row.path).parts and not file.resolve().is_relative_to(place):
            raise DataError(f"{here} leaves the manifest's folder: {row.path!r}.", "Put the manifest above its images.")
    if not row.path.lower().endswith(ENDINGS):
        raise DataError(f"{here} names {row.path!r}, which does not end like an image file.")
    try:
        there = file.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise DataError(f"{here} names {row.path!r}, but there is no such file in {place}.")
    return str(file)


def _check_apart(path: Path, train: Sequence[_Row], test: Sequence[_Row]) -> None:
    first = {row.path: row for row in train}
    both = next((row for row in test if row.path in first), None)
    if both is not None:
        raise DataError(
            f"Rows {first[both.path].number} and {both.number} of {path} put {both.path!r} into both splits.",
            "Figures measured on training images mean nothing: keep the two splits apart.",
        )


def _rows(path: Path) -> Iterator[_Row]:
    table = _parquet(path) if path.suffix == ".parquet" else _text(path)
    columns = next(table)
    at = {key: _column(path, key, columns) for key in _COLUMNS}
    for number, cells in enumerate(table, 2):
        if not any(cells):
            continue
        if len(cells) < len(columns):
            raise DataError(f"Row {number} of {path} has {len(cells)} cells, but the header has {len(columns)}.")
        found = {key: cells[index].strip() for key, index in at.items()}
        if empty := next((key for key, cell in found.items() if not cell), None):
            raise DataError(f"Row {number} of {path} has no {empty}.")
        yield _Row(number, found["path"], found["label"], found["split"].lower())


def _column(path: Path, key: str, columns: Sequence[str]) -> int:
    lower = [column.strip().lower() for column in columns]
    index = next((lower.index(name) for name in _COLUMNS[key] if name in lower), None)
    if index is not None:
        return index
    if key == "split":
        raise DataError(
            f"{path} has no column split, so nothing says which images are for training and which for the test.",
            "Add one, with train or test in every row.",
        )
    guess = nearest(key, lower)
    raise DataError(f"{path} has no column {key}; it has {', '.join(columns) or 'none'}.", guess or f"Name it {key}.")


def _text(path: Path) -> Iterator[list[str]]:
    """The header and the rows of a .csv or .tsv file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(_LONGEST_HEADER)
            file.seek(0)
            # Spreadsheets of countries with a decimal comma write semicolons.
            lines = csv.reader(file, delimiter=max(",\t;|", key=first.count), strict=True)
            yield next(lines, [])
            yield from lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table in UTF-8: {first_line(error)}.") from error


def _parquet(path: Path) -> Iterator[list[str]]:
    """The header and the rows of a .parquet file."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{path} needs the package pyarrow.", "Install it with pip install pyarrow, or write a .csv file."
        ) from None
    try:
        table: Any = parquet.read_table(path)
    except Exception as error:  # each library has its own exceptions
        raise DataError(f"{path} cannot be read as parquet: {first_line(error)}.") from error
    yield list(table.column_names)
    for batch in table.to_batches(10_000):
        columns = [batch.column(name).to_pylist() for name in table.column_names]
        for cells in zip(*columns, strict=True):
            yield ["" if cell is None else str(cell) for cell in cells]
