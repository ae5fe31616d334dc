"""A whole dataset, and the checks that it passes before any long work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from perturbify.data.colours import GREY, WAYS, Recoloured, recoloured
from perturbify.data.fingerprint import digest_of_texts
from perturbify.data.names import check_class_names, check_name
from perturbify.data.split import Split
from perturbify.display import lines, some
from perturbify.errors import DataError
from perturbify.text import times

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# Images used to measure mean and std: enough for errors that do not matter.
_SAMPLE = 1_000
_AT_ONCE = 2**26  # values
_STD_FLOOR = 1 / 255  # one step of an eight-bit pixel


@dataclass(frozen=True)
class Data:
    """A dataset for classification.

    Attributes:
        name: Short name such as ``"cifar10"`` or ``"folder:pets"``; never an absolute path.
        train: The training images.
        test: The images for measuring.
        classes: One name a class; label k means ``classes[k]``.
        input_size: (C, H, W) of an image.
        mean: Mean of the training pixels in [0, 1], one number a channel.
        std: Their standard deviation, positive.
        notes: What was assumed or done to the images, in plain sentences.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        images = f"{len(self.train):,} to train on, {len(self.test):,} to test on, {times(self.input_size)}"
        return lines(f"Data: {self.name}", [("images", images), ("classes", some(self.classes, len(self.classes)))])

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Identifies the data on any machine and in any folder; JSON values.

        ``train_images`` and ``test_images`` are counts, ``input_size`` is a list, and ``digest`` is a hash of the
        classes' names, all labels, and the pixels before they were fitted to a size: all of them up to 256 MiB a split
        (0.4 s for CIFAR), beyond that an evenly spaced sample of that size. For image files it uses their names within
        the dataset and their sizes instead; for a dataset behind timm that does not name its files, only the labels.
        """
        return {
            "train_images": len(self.train),
            "test_images": len(self.test),
            "input_size": list(self.input_size),
            "digest": digest_of_texts([self.train.digest(), self.test.digest(), *self.classes]),
        }

    def with_channels(self, channels: int) -> Data:
        """The same images with the number of channels that a network takes; ``notes`` say what was done.

        Grey is repeated to three channels, and colour is converted to luminance.

        Raises:
            DataError: The channels cannot be converted.
        """
        has = self.input_size[0]
        if channels == has:
            return self
        said = WAYS.get((has, channels))
        if said is None:
            raise DataError(
                f"The images of {self.name} have {has} channels, not {channels}.",
                f"Build the network for {has} (in_chans={has} in timm), or use other images.",
            )
        was_grey = isinstance(self.train, Recoloured) and channels == GREY
        train, test = (recoloured(split, channels) for split in (self.train, self.test))
        if has == GREY:
            mean, std = self.mean * channels, self.std * channels
        else:
            mean, std = (self.mean[:1], self.std[:1]) if was_grey else _measure(train)
        others = [note for note in self.notes if note not in WAYS.values()]
        return replace(
            self,
            train=train,
            test=test,
            input_size=(channels, *self.input_size[1:]),
            mean=mean,
            std=std,
            notes=(*others, *([] if was_grey else [said])),
        )


def suited(data: Data, channels: int | None) -> Data:
    """The data with a network's number of channels if possible, else unchanged: the network then raises."""
    return data.with_channels(channels) if (data.input_size[0], channels) in WAYS and channels else data


def assemble(
    name: str,
    splits: Sequence[Split],
    classes: tuple[str, ...],
    side: tuple[int, int],
    statistics: Statistics | None = None,
    notes: Sequence[str] = (),
) -> Data:
    """Checks two splits against their classes and makes them one dataset.

    Args:
        name: Short name of the dataset.
        splits: The training images and the test images.
        classes: One name a class.
        side: (H, W) of an image, in pixels.
        statistics: Published mean and std; measured on the training images by default.
        notes: What was assumed or done to the images.

    Returns:
        The dataset.

    Raises:
        DataError: A split is empty, there are fewer than two classes, two with the same name, or one that cannot be
            written, a label is outside the class list, or a class has no training image.
    """
    check_name(name)
    train, test = splits
    parts = {"training": train, "test": test}
    for part, split in parts.items():
        if not len(split):
            raise DataError(f"The {part} split of {name} holds no images.")
    if len(classes) < 2:
        raise DataError(f"{name} has only one class, {classes[0]!r}.", "A classifier needs at least two.")
    check_class_names(name, classes)
    for part, split in parts.items():
        outside = split.labels[(split.labels < 0) | (split.labels >= len(classes))]
        if len(outside):
            raise DataError(
                f"The {part} split of {name} holds the label {outside[0]}, outside the {len(classes)} classes"
                f" 0 to {len(classes) - 1} of its training split."
            )
    unseen = train.labels.bincount(minlength=len(classes)) == 0
    if unseen.any():
        label = int(unseen.nonzero()[0])
        raise DataError(f"Class {label} of {name}, {classes[label]!r}, has no training images.")
    mean, std = statistics or _measure(train)
    return Data(name, train, test, classes, (len(mean), *side), mean, std, tuple(notes))


def _measure(split: Split) -> Statistics:
    """Mean and std per channel over evenly spaced images, to four digits."""
    sample = torch.linspace(0, len(split) - 1, min(len(split), _SAMPLE)).round().long()
    first, _ = next(split.batches(1, order=sample[:1]))
    channels = first.shape[1]
    count, total, squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    for x, _ in split.batches(max(1, min(64, _AT_ONCE // first.numel())), order=sample):
        x = x.double()
        count += x.numel() // channels
        total += x.sum((0, 2, 3))
        squares += x.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=_STD_FLOOR)
    return tuple(round(m, 4) for m in mean.tolist()), tuple(round(s, 4) for s in std.tolist())
