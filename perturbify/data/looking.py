"""A look at some images before any work: which size they share, and what is unusual about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from perturbify.data.fingerprint import spread
from perturbify.data.images import FORMATS, turned_size, without_waiting
from perturbify.errors import DataError

LOOKED_AT = 200
"""Image files at most of each part whose headers are read."""
_DECODED = 16  # images at most of a set behind another library, which have to be decoded for that


@dataclass(frozen=True)
class Look:
    """What some images have in common.

    Attributes:
        sizes: (H, W), with an image that has it.
        modes: Pillow's names of how their pixels are kept.
        several: Whether one of them has several frames.
    """

    sizes: dict[tuple[int, int], str]
    modes: frozenset[str]
    several: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of them."""
        said = ["Images of several frames give their first."] if self.several else []
        if any(mode.startswith("I") for mode in self.modes):
            said.append("Images of 16 bits are brought to 8.")
        if "F" in self.modes:
            said.append("Images of floats in [0, 1] are brought to 8 bits.")
        return tuple(said)


def at_files(paths: Sequence[str]) -> Look:
    """Reads the headers of some files; one that is broken is left to whoever decodes it."""
    sizes: dict[tuple[int, int], str] = {}
    modes, several = set(), False
    for index in spread(len(paths), LOOKED_AT).tolist():
        try:
            with open(paths[index], "rb", opener=without_waiting) as file, Image.open(file, formats=FORMATS) as image:
                sizes.setdefault(turned_size(image), paths[index])
                modes.add(image.mode)
                several = several or getattr(image, "is_animated", False)
        except Exception:
            continue
    return Look(sizes, frozenset(modes), several)


def at_images(dataset: Any, count: int) -> Look:
    """Decodes some images of a set that gives ``(PIL image, label)`` for an index."""
    sizes: dict[tuple[int, int], str] = {}
    for index in spread(count, _DECODED).tolist():
        try:
            width, height = dataset[index][0].size
        except Exception:
            continue
        sizes.setdefault((height, width), f"number {index}")
    return Look(sizes, frozenset(), several=False)


def size_for(
    name: str, sizes: dict[tuple[int, int], str], image_size: int | None, default_size: int | None
) -> tuple[tuple[int, int], int | None, str]:
    """Which size images get.

    Args:
        name: Of the data set.
        sizes: (H, W) of the images that were looked at, with an image that has it.
        image_size: The side that was asked for.
        default_size: The network's own, for images that have no size in common.

    Returns:
        (H, W), the side to fit them to or None where they keep their own, and a sentence about it.

    Raises:
        DataError: They have several sizes, and none was asked for.
    """
    if image_size is not None:
        common = next(iter(sizes)) if len(sizes) == 1 else None
        was = "" if common is None else f" from {common[0]}×{common[1]}"
        same = common == (image_size, image_size)
        said = f"kept at {image_size}×{image_size}" if same else f"fitted to {image_size}×{image_size}{was}, as asked"
        return (image_size, image_size), image_size, f"Images are {said}."
    if len(sizes) == 1:
        ((height, width),) = sizes
        return (height, width), None, f"Images keep their own size, {height}×{width}."
    if default_size is not None:
        return (
            (default_size, default_size),
            default_size,
            f"Images of several sizes are fitted to the network's {default_size}×{default_size}.",
        )
    if not sizes:
        raise DataError(f"No image of {name} could be read to see its size.", "Say it: --image-size N (image_size=N).")
    (a, first), (b, second) = list(sizes.items())[:2]
    raise DataError(
        f"The images of {name} have several sizes: {first} is {a[0]}×{a[1]}, {second} is {b[0]}×{b[1]}.",
        "Say to which they are fitted: --image-size N (image_size=N), a square of so many pixels a side.",
    )
