"""A look at some images before any work: their common size, and what is unusual about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from perturbify.data.fingerprint import spread
from perturbify.data.images import FORMATS, turned_size, without_waiting
from perturbify.errors import DataError

LOOKED_AT = 200
"""The most image files of a split whose headers are read."""
_DECODED = 16  # the most images of another library's dataset, which have to be decoded for that


@dataclass(frozen=True)
class Look:
    """What some images have in common.

    Attributes:
        sizes: Each (H, W), with an image that has it.
        modes: Pillow's names of their pixel formats.
        several: Whether any of them has several frames.
    """

    sizes: dict[tuple[int, int], str]
    modes: frozenset[str]
    several: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on them."""
        said = ["Images with several frames: the first is used."] if self.several else []
        if any(mode.startswith("I") for mode in self.modes):
            said.append("Images with 16 bits are scaled to 8.")
        if "F" in self.modes:
            said.append("Images with floats in [0, 1] are scaled to 8 bits.")
        return tuple(said)


def at_files(paths: Sequence[str]) -> Look:
    """Reads the headers of some files; a broken one raises later, when it is decoded."""
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
    """Decodes some images of a dataset that returns ``(PIL image, label)`` for an index."""
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
    """Decides which size images get.

    Args:
        name: Name of the dataset.
        sizes: Each (H, W) found, with an image that has it.
        image_size: The requested side.
        default_size: The network's own side, for images without a common size.

    Returns:
        (H, W), the side to fit them to or None if they keep their own, and a sentence about it.

    Raises:
        DataError: They have several sizes, and none was requested.
    """
    if image_size is not None:
        common = next(iter(sizes)) if len(sizes) == 1 else None
        was = "" if common is None else f" from {common[0]}×{common[1]}"
        same = common == (image_size, image_size)
        said = (
            f"kept at {image_size}×{image_size}" if same else f"fitted to {image_size}×{image_size}{was}, as requested"
        )
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
        raise DataError(f"No image of {name} could be read to find its size.", "Set it: --image-size N (image_size=N).")
    (a, first), (b, second) = list(sizes.items())[:2]
    raise DataError(
        f"The images of {name} have several sizes: {first} is {a[0]}×{a[1]}, {second} is {b[0]}×{b[1]}.",
        "Set the size to fit them to: --image-size N (image_size=N), a square of N pixels a side.",
    )
