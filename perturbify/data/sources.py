"""From a name or a path to a dataset."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import islice
from pathlib import Path

from perturbify.data.arrays import ARRAYS, load_arrays
from perturbify.data.builtin import NAMES, cifar_in, default_root, expanded, load_builtin
from perturbify.data.bundle import Data
from perturbify.data.colours import COLOUR, GREY
from perturbify.data.folders import load_folder
from perturbify.data.images import kind
from perturbify.data.manifests import SUFFIXES, load_manifest
from perturbify.data.timm_datasets import SCHEMES, load_timm
from perturbify.errors import DataError, nearest
from perturbify.numbers import MOST_SIDE

_WAYS = "A path to a .npz file or to an image folder works too."
_SIGNS = {f"{key}.npy" for key in ARRAYS}
_NEIGHBOURS, _LONGEST = 1000, 255  # files next to a missing path, and characters of its name


def dataset_names() -> tuple[str, ...]:
    """The built-in datasets that ``load`` knows by name."""
    return NAMES


def load(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    default_size: int | None = None,
    channels: int | None = None,
    class_order: str | None = None,
    download: bool = False,
) -> Data:
    """Loads a dataset.

    Args:
        name: ``"digits"``, ``"cifar10"`` or ``"cifar100"``; the path of a .npz file (arrays x_train, y_train,
            x_test, y_test; uint8 pixels), of a folder with these as .npy files, of a folder with ``train/CLASS/`` and
            ``val/CLASS/`` or ``test/CLASS/``, of a .csv, .tsv or .parquet file with a row ``path,label,split`` for each
            image, or of a folder that holds CIFAR as torchvision unpacks it; or a dataset that
            ``timm.data.create_dataset`` can index, ``"torch/NAME"`` or ``"hfds/NAME"``. More than 256 MiB of images in
            .npy files, or in an uncompressed .npz file, stay there and are read batch by batch.
        root: Folder of the named datasets; by default ``$PERTURBIFY_DATA`` or ``~/.cache/perturbify/data``.
        image_size: Side in pixels of the square that images are fitted to, by resizing the shorter side and
            cropping the centre. By default images of one common size keep it.
        default_size: The same, for images without a common size; usually the network's own.
        channels: How many the network takes, 1 or 3: grey images are repeated to three channels, colour is converted to
            luminance. By default grey is repeated, as most networks take three, and any other number is kept.
        class_order: How classes with names are numbered: ``"sorted"`` as torchvision does (the default),
            ``"natural"`` as timm does (2 before 10), or the path of a file with one name per line, a JSON list of names
            or a JSON object from names to labels.
        download: Whether missing files may be fetched.

    Returns:
        The dataset, with checked labels; its ``notes`` say what was assumed.

    Raises:
        DataError: There is no such dataset, it may not or cannot be downloaded, or its content is unusable.
    """
    for side in (side for side in (image_size, default_size) if side is not None):
        if side < 1:
            raise DataError(f"The image size must be at least one pixel, not {side}.")
        if side > MOST_SIDE:
            raise DataError(f"The image size must be at most {MOST_SIDE:,} pixels, not {side:,}.")
    folder = default_root() if root is None else expanded(root)
    try:
        if name in NAMES:
            data = load_builtin(name, folder, image_size, download)
        elif name.partition("/")[0] in SCHEMES and "/" in name:
            data = load_timm(name, folder, image_size, default_size, class_order, download)
        else:
            data = _load_path(name, image_size, default_size, class_order)
    except OSError as error:
        raise DataError(f"{error.filename or name} cannot be read: {error.strerror or error}.") from error
    if channels is None:
        channels = COLOUR if data.input_size[0] == GREY else data.input_size[0]
    return data.with_channels(channels)


def _load_path(name: str, image_size: int | None, default_size: int | None, class_order: str | None) -> Data:
    if not name:
        raise DataError("The name of the dataset is empty.", f"Choose from {', '.join(NAMES)}. {_WAYS}")
    path = expanded(name)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(f"{path} is a link that leads nowhere.", "Put back what it leads to.") from None
        raise _missing(name, path) from None
    except (NotADirectoryError, ValueError):  # ValueError: a character that no path has
        raise _missing(name, path) from None
    if stat.S_ISDIR(mode):
        return _load_folder(path, image_size, default_size, class_order)
    if stat.S_ISREG(mode) and path.suffix == ".npz":
        return load_arrays(path, image_size)
    if stat.S_ISREG(mode) and path.suffix in SUFFIXES:
        return load_manifest(path, image_size, default_size, class_order)
    raise DataError(
        f"{path} is neither a .npz file nor a folder{'' if stat.S_ISREG(mode) else f', but {kind(mode)}'}.",
        f"A folder with {', '.join(f'{key}.npy' for key in ARRAYS)} works, too."
        if path.suffix == ".npy"
        else "A table of images is a .csv, .tsv or .parquet file."
        if stat.S_ISREG(mode)
        else None,
    )


def _load_folder(path: Path, image_size: int | None, default_size: int | None, class_order: str | None) -> Data:
    if _SIGNS.intersection(os.listdir(path)):  # noqa: PTH208
        return load_arrays(path, image_size)
    cifar = cifar_in(path)
    if cifar:
        return load_builtin(cifar, path, image_size, False)
    return load_folder(path, image_size, default_size, class_order)


def _missing(name: str, path: Path) -> DataError:
    neighbours: list[str] = []
    with suppress(OSError, ValueError):
        neighbours += [entry.name for entry in islice(path.parent.iterdir(), _NEIGHBOURS)]
    return DataError(
        f"There is no dataset, file or folder {name!r}.",
        f"{nearest(path.name[:_LONGEST], [*neighbours, *NAMES])} {_WAYS}".lstrip(),
    )
