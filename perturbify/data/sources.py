"""From a name or a path to a dataset."""

from __future__ import annotations

import os
from pathlib import Path

from perturbify.data.builtin import NAMES, cifar_in, default_root, load_builtin
from perturbify.data.bundle import Data
from perturbify.data.files import DEFAULT_SIZE, load_folder, load_npz
from perturbify.data.timm_datasets import SCHEMES, load_timm
from perturbify.errors import DataError, nearest


def dataset_names() -> tuple[str, ...]:
    """The datasets that ``load`` knows by a name of their own."""
    return NAMES


def load(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    default_size: int = DEFAULT_SIZE,
    download: bool = False,
) -> Data:
    """Loads a dataset.

    Args:
        name: ``"digits"``, ``"cifar10"`` or ``"cifar100"``; the path of a .npz file (arrays x_train, y_train,
            x_test, y_test; uint8 pixels), of a folder with ``train/CLASS/`` and ``val/CLASS/`` or
            ``test/CLASS/``, or of a folder that holds CIFAR as torchvision unpacks it; or what
            ``timm.data.create_dataset`` can index, ``"torch/NAME"`` or ``"hfds/NAME"``.
        root: Where named datasets lie; by default ``$PERTURBIFY_DATA`` or ``~/.cache/perturbify/data``.
        image_size: Side in pixels of the square that images are fitted to, by resizing the shorter side and
            cropping the centre. By default images of one common size keep it.
        default_size: The same, for images that have no size in common (those of folders and of timm's datasets).
        download: Whether missing files may be fetched.

    Returns:
        The dataset, its labels checked.

    Raises:
        DataError: There is no such dataset, it may not or cannot be downloaded, or its content is unusable.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"An image size of {image_size} is not at least one pixel.")
    folder = default_root() if root is None else Path(root).expanduser()
    if name in NAMES:
        return load_builtin(name, folder, image_size, download)
    if name.partition("/")[0] in SCHEMES and "/" in name:
        return load_timm(name, folder, image_size, default_size, download)
    # os.path.expanduser leaves an unknown ~user alone, where Path.expanduser raises
    path = Path(os.path.expanduser(name))  # noqa: PTH111
    if path.is_dir():
        cifar = cifar_in(path)
        return load_builtin(cifar, path, image_size, False) if cifar else load_folder(path, image_size or default_size)
    if path.is_file() and path.suffix == ".npz":
        return load_npz(path, image_size)
    if path.exists():
        raise DataError(f"{path} is neither a .npz file nor a folder.")
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    ways = "A path to a .npz file or to an image folder works too."
    raise DataError(
        f"There is no dataset, file or folder {name!r}.",
        f"{nearest(path.name, [*neighbours, *NAMES])} {ways}".lstrip(),
    )
