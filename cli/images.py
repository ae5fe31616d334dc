"""From ``--data`` to images, with notes on what was assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbify.cli.console import Console

if TYPE_CHECKING:
    from perturbify.checkpoint.header import Header
    from perturbify.data import Data


def load(console: Console, name: str, *, channels: int | None, side: int | None, **options: Any) -> Data:
    """Loads a dataset for a network, and prints what was assumed.

    Args:
        console: Where to print it.
        name: As for :func:`perturbify.data.load`.
        channels: The network's channels, if known.
        side: Side of the network's own images, for images without a common size.
        **options: Further options of :func:`perturbify.data.load`.

    Raises:
        DataError: There is no such dataset, or it cannot be used.
    """
    from perturbify import data

    images = data.suited(data.load(name, default_size=side, **options), channels)
    told(console, images)
    return images


def told(console: Console, images: Data) -> None:
    """Prints what was assumed of images, or done to them."""
    for note in images.notes:
        console.log(note if note.startswith("warning:") else f"data: {note}")


def check_order(name: str, header: Header, images: Data) -> None:
    """Makes sure that classes are numbered as the network learned them.

    Raises:
        CheckError: The images have the same classes in another order.
    """
    from perturbify.errors import CheckError

    learned = list(header.classes or images.classes)
    if learned != list(images.classes) and sorted(learned) == sorted(images.classes):
        at = next(k for k, (ours, theirs) in enumerate(zip(learned, images.classes, strict=True)) if ours != theirs)
        raise CheckError(
            f"{name} learned the classes of {images.name} in another order: its class {at} is {learned[at]!r}, "
            f"but here that is {images.classes[at]!r}.",
            "Set the order that it learned: --class-order natural, sorted, or a FILE with one name per line.",
        )


def channels_of(header: Header) -> int | None:
    """The channels of the images that a checkpoint was made for; None if it takes something else."""
    shape = next(iter(header.inputs.values())).get("shape", [])
    return int(shape[0]) if len(shape) == 3 else None


def taken_by(name: str, model_args: dict[str, Any]) -> tuple[int | None, int | None]:
    """The channels and side of a library model's images, without building it; None: unknown."""
    from perturbify import zoo
    from perturbify.errors import ModelError
    from perturbify.zoo.build import skeleton

    qualified = zoo.resolve(name)
    if zoo.is_factory(qualified):  # its code runs only once, to build
        return None, None
    try:
        size = zoo.input_size(skeleton(zoo.ModelSpec(qualified, dict(model_args), "fresh")))
    except ModelError:  # reported when it is built
        return None, None
    return (size[0], size[-1]) if size is not None and len(size) == 3 and size[1] == size[2] else (None, None)
