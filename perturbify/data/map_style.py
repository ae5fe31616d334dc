"""The user's own indexable datasets: torchvision's, torch's, Hugging Face's, and similar ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from perturbify.data.items import LABELS, check_labels, pairs_of
from perturbify.data.names import told_apart
from perturbify.data.split import OnDemandSplit
from perturbify.errors import DataError
from perturbify.text import first_line, times

_LOOKED_AT = 16  # items whose labels are compared with the dataset's list of labels


class MapStyleSplit(OnDemandSplit):
    """A split whose images a user's dataset returns on demand, floats in [0, 1].

    Its dataset returns what :func:`~perturbify.data.items.pairs_of` takes; its ``size`` is the (C, H, W) of an image.
    """

    def _reader(self) -> Dataset[Tensor | DataError]:
        return _Reader(self.dataset, self.size)


class _Reader(Dataset[Tensor | DataError]):
    """Reads whole batches, in this process or a worker."""

    def __init__(self, dataset: Any, size: tuple[int, ...]) -> None:
        self.dataset = dataset
        self.size = size

    def __getitem__(self, rows: list[int]) -> Tensor | DataError:
        try:
            return torch.cat([self._image(row) for row in rows])
        except DataError as error:
            return error

    def _image(self, row: int) -> Tensor:
        x, _ = item_of(self.dataset, row)
        if tuple(x.shape[1:]) != self.size:
            raise sizes_differ(f"Image {row} of the data set", x.shape[1:], self.size)
        return x.float()


def item_of(dataset: Any, row: int) -> tuple[Tensor, Tensor]:
    """An image, shape (1, C, H, W) in [0, 1], and its label, shape (1,).

    Raises:
        DataError: The dataset fails, or returns something else; the message names the row.
    """
    try:
        item = dataset[row]
    except Exception as error:  # the user's code
        raise DataError(f"The data set fails at image {row}: {type(error).__name__}: {first_line(error)}.") from error
    try:
        x, y = pairs_of(item)
    except DataError as error:
        raise DataError(f"Image {row} of the data set: {error.message}", error.hint) from error
    if len(x) != 1:
        raise DataError(f"Item {row} of the dataset is a batch of {len(x)} images, not one.", "Pass a DataLoader.")
    return x, y


def sizes_differ(what: str, size: Sequence[int], others: Sequence[int]) -> DataError:
    """The error for images of different sizes."""
    return DataError(
        f"{what} is {times(size)}, but others are {times(others)}.",
        "Give them one size, with transforms such as Resize(64) and CenterCrop(64); perturbify.data.load(path, "
        "image_size=64) does so for a folder.",
    )


def known_labels(dataset: Any) -> Tensor | None:
    """The labels of all images, int64 of shape (N,), if the dataset lists them without reading images; else None."""
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        found = [known_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in found) else torch.cat([p for p in found if p is not None])
    if getattr(dataset, "target_transform", None) is not None:
        return None
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        said: Any = dataset.tensors[1]
    elif hasattr(dataset, "column_names"):  # Hugging Face's
        key = next((name for name in LABELS if name in dataset.column_names), None)
        said = None if key is None else dataset.with_format(None)[key]
    else:
        said = next((getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)), None)
    return _believed(dataset, said)


def _believed(dataset: Any, said: Any) -> Tensor | None:
    """The labels that a dataset lists, if they agree with its items."""
    try:
        labels = torch.as_tensor(said if hasattr(said, "shape") else list(said))
        if len(labels) != len(dataset):
            return None
        labels = check_labels(torch.empty(len(labels), 1, 1, 1), labels)
    except (TypeError, ValueError, RuntimeError, DataError):
        return None
    some = torch.linspace(0, len(labels) - 1, min(_LOOKED_AT, len(labels))).long().tolist()
    return labels if all(int(item_of(dataset, row)[1]) == int(labels[row]) for row in some) else None


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """The names of a dataset's classes in the order of their labels, if it lists them."""
    if isinstance(dataset, Subset):
        return class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return class_names(dataset.datasets[0])
    names = getattr(dataset, "classes", None)
    if names is None and hasattr(dataset, "features"):
        key = next((name for name in LABELS if name in dataset.features), None)
        names = None if key is None else getattr(dataset.features[key], "names", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str | tuple) and name for name in names):
        return None
    return told_apart(names) or None
