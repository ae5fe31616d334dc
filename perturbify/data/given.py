"""Images in any form: perturbify's datasets, names and paths, tensors, torch datasets, loaders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from perturbify.data.bundle import Data, assemble, suited
from perturbify.data.colours import WAYS, recoloured
from perturbify.data.fingerprint import spread
from perturbify.data.items import check_labels, check_pixels, pairs_of
from perturbify.data.map_style import MapStyleSplit, class_names, item_of, known_labels, sizes_differ
from perturbify.data.sources import load
from perturbify.data.split import FloatSplit, Split
from perturbify.data.stored import memory_to_use
from perturbify.errors import DataError
from perturbify.text import first_line

MOST = 10_000
"""The most images taken from a stream, or from a dataset that does not list its labels."""
FORMS = (
    "Pass a name or path, a Data, a Split, a pair (images, labels), a dataset of pairs, or a loader of their batches."
)
_TRAIN, _TEST = ("train", "training"), ("test", "val", "valid", "validation", "eval")


@dataclass(frozen=True)
class Part:
    """The images of one split.

    Attributes:
        split: The images.
        name: Their name.
        classes: The names of their classes, if they have any.
        notes: What was assumed or done to them and has not been printed yet, in plain sentences.
    """

    split: Split
    name: str
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def as_test(given: Any, *, channels: int | None = None, most: int | None = None) -> Part:
    """Test images, from any form.

    Args:
        given: A :class:`Data`, its split, the name or path of a dataset; a pair of images (N, C, H, W) in [0, 1] and
            labels; a dataset of pairs or of dicts with an image and a label, such as torchvision's and Hugging Face's;
            a loader of their batches; or two splits, ``(train, test)`` or a dict, of which the test split is taken.
        channels: How many the network takes, if known: grey is repeated, colour becomes grey.
        most: How many are needed.

    Raises:
        DataError: There are no images, or they are not pixels in [0, 1] with labels.
    """
    said: tuple[str, ...] = ()
    if isinstance(given, str | Path):
        given = load(str(given))
    elif isinstance(given, Data):
        said = given.notes  # were printed when it was loaded
    if _is_pair_of_parts(given):
        given = given[1]
    elif isinstance(given, Mapping):
        given = _of_mapping(given, _TEST)
    if isinstance(given, Data):
        data = suited(given, channels)
        part = Part(data.test, data.name, data.classes, tuple(note for note in data.notes if note not in said))
    else:
        part = _recoloured(_part(given, most or MOST), channels)
    if not len(part.split):
        raise DataError(f"There is nothing to check on: {part.name} has no test images.")
    return part


def as_data(given: Any, *, channels: int | None = None) -> Data:
    """Images to train and to test with, from any form.

    Args:
        given: A :class:`Data`, the name or path of one; or a pair ``(train, test)`` or a dict ``{"train": …, "test":
            …}`` of splits such as :func:`as_test` takes.
        channels: As for :func:`as_test`.

    Raises:
        DataError: A split is missing, cannot be indexed, or does not hold pixels in [0, 1] with labels; or the two
            differ.
    """
    if isinstance(given, str | Path):
        given = load(str(given))
    if isinstance(given, Data):
        return suited(given, channels)
    if isinstance(given, Mapping):
        given = (_of_mapping(given, _TRAIN), _of_mapping(given, _TEST))
    if not _is_pair_of_parts(given):
        raise DataError(
            f"Training needs images to train on and others to test on, but this is a single {type(given).__name__}.",
            'Pass a pair (train, test), or {"train": …, "test": …}.',
        )
    train, test = (_part(one, None) for one in given)
    for part in (train, test):
        if not len(part.split):
            raise DataError("One of the two splits, (train, test), holds no images.")
    size, other = (tuple(next(part.split.batches(1))[0].shape[1:]) for part in (train, test))
    if size != other:
        raise sizes_differ("The first test image", other, size)
    if train.classes and test.classes and train.classes != test.classes:
        raise DataError(f"The splits have different classes: {_few(train.classes)} and {_few(test.classes)}.")
    numbered = tuple(map(str, range(int(train.split.labels.max()) + 1)))
    classes = train.classes or test.classes or numbered
    notes = tuple(dict.fromkeys((*train.notes, *test.notes)))
    return suited(assemble("own images", (train.split, test.split), classes, (size[1], size[2]), notes=notes), channels)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _of_mapping(given: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    found = next((key for key in keys if key in given), None)
    if found is None:
        raise DataError(
            f"The dict has no {keys[0]!r}; it has {', '.join(map(repr, given)) or 'nothing'}.",
            'Name its splits "train" and "test".',
        )
    return given[found]


def _is_pair_of_parts(given: Any) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2 and all(map(_is_part, given))


def _is_part(given: Any) -> bool:
    return isinstance(given, Split | Dataset | DataLoader) or hasattr(given, "column_names") or _is_arrays(given)


def _is_arrays(given: Any) -> bool:
    """Whether it is a pair of a batch of images and their labels, rather than a single image and its label."""
    if not (isinstance(given, tuple | list) and len(given) == 2 and hasattr(given[0], "shape")):
        return False
    return len(given[0].shape) != 3 or (hasattr(given[1], "shape") and len(given[1].shape) > 0)


def _part(given: Any, most: int | None) -> Part:
    """One split, with as many images as are needed; None: all."""
    if isinstance(given, Split):
        return Part(given, "own images", None)
    if _is_arrays(given):
        return Part(_held(*_arrays(given)), "own images", None)
    notes: tuple[str, ...] = ()
    workers = None
    if isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset) and _plain(given):
        notes = ("The loader's dataset is used; batches and their order are the run's own.",)
        given, workers = given.dataset, given.num_workers
    if isinstance(given, Split):
        return Part(given, "own images", None, notes)
    if _has_rows(given):
        return _of_rows(given, most, workers, notes)
    if not isinstance(given, Iterable | Dataset | DataLoader):
        raise DataError(f"{type(given).__name__} is not a form of images that can be read.", FORMS)
    if most is None and not isinstance(given, list | tuple | DataLoader):
        raise DataError(
            f"{type(given).__name__} is a stream that cannot be indexed, but training must shuffle and resume.",
            "Pass a dataset with __len__ and __getitem__, or tensors: (x, y).",
        )
    return Part(_held(*_gathered(iter(given), most)), "own images", None, notes)


def _plain(loader: DataLoader[Any]) -> bool:
    """Whether a loader returns each image of its dataset once, in any order."""
    sampler = loader.sampler
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return False
    each_once = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    return each_once and loader.collate_fn in (default_collate, default_convert)


def _has_rows(given: Any) -> bool:
    return (isinstance(given, Dataset) and hasattr(given, "__len__")) or hasattr(given, "column_names")


def _of_rows(dataset: Any, most: int | None, workers: int | None, notes: tuple[str, ...]) -> Part:
    """An indexable dataset: read when needed if it lists its labels, else read now."""
    if not len(dataset):
        raise DataError("There is nothing to check on: there are no images.")
    names = class_names(dataset)
    labels = known_labels(dataset)
    if labels is None:
        rows = spread(len(dataset), len(dataset) if most is None else most).tolist()
        if len(rows) < len(dataset):
            notes = (*notes, f"Of {len(dataset):,} images without known labels, {len(rows):,} are read, evenly spaced.")
        return Part(_held(*_gathered((dataset[row] for row in rows), len(rows))), "own images", names, notes)
    first, _ = item_of(dataset, 0)
    if workers is None:
        workers = None if hasattr(dataset, "samples") else 0
    split: Split = MapStyleSplit(dataset, labels, tuple(first.shape[1:]), workers=workers)
    if most is not None and most < len(split):
        split = split.balanced(most)
    return Part(split, "own images", names if names and len(names) > int(labels.max()) else None, notes)


def _arrays(given: Any) -> tuple[Tensor, Tensor]:
    try:
        x, y = (torch.as_tensor(part) for part in given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"The pair is not images and labels: {first_line(error)}.", FORMS) from error
    x = check_pixels(x)
    return x, check_labels(x, y)


def _gathered(items: Iterable[Any], most: int | None) -> tuple[Tensor, Tensor]:
    """Images one by one or in batches, read into memory up to its limit."""
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    count, held, room = 0, 0, memory_to_use()
    for item in items:
        x, y = pairs_of(item)
        if xs and x.shape[1:] != xs[0].shape[1:]:
            raise sizes_differ(f"Image {count}", x.shape[1:], xs[0].shape[1:])
        xs.append(x.float().cpu())
        ys.append(y)
        count, held = count + len(x), held + 4 * x.numel()
        if held > room:
            raise DataError(
                f"{count:,} images take more than the {room / 2**30:.1f} GiB of memory available for them.",
                "Pass a dataset that lists its labels as .targets: its images are then read when needed.",
            )
        if most is not None and count >= most:
            break
    if not xs:
        raise DataError("There is nothing to check on: there are no images.")
    return torch.cat(xs)[:most], torch.cat(ys)[:most]


def _held(x: Tensor, y: Tensor) -> Split:
    if not len(x):
        raise DataError("There is nothing to check on: there are no images.")
    return FloatSplit(x.cpu(), y)


def _recoloured(part: Part, channels: int | None) -> Part:
    """A split with the network's number of channels, if it can be converted."""
    if channels is None or not len(part.split):
        return part
    has = next(part.split.batches(1))[0].shape[1]
    said = WAYS.get((has, channels))
    return part if said is None else replace(part, split=recoloured(part.split, channels), notes=(*part.notes, said))
