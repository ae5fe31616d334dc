"""The built-in datasets."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from perturbify.data.bundle import Data, Statistics, assemble
from perturbify.data.stored import split_of
from perturbify.errors import DataError

HOW_TO_GET = "Allow the download with --download, or name its folder with --data FOLDER."

# torchvision's class, the folder its archive unpacks to, and the published mean and std.
_CIFAR: dict[str, tuple[str, str, Statistics]] = {
    "cifar10": (
        "CIFAR10",
        "cifar-10-batches-py",
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ),
    "cifar100": (
        "CIFAR100",
        "cifar-100-python",
        ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ),
}
NAMES = ("cifar10", "cifar100", "digits")


def default_root() -> Path:
    """The default folder of datasets: $PERTURBIFY_DATA or the user's cache."""
    return expanded(os.environ.get("PERTURBIFY_DATA") or "~/.cache/perturbify/data")


def expanded(path: str | Path) -> Path:
    """A path with ``~`` expanded; an unknown ``~user`` stays, where Path.expanduser would raise."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def load_builtin(name: str, root: Path, image_size: int | None, download: bool) -> Data:
    """Loads one of ``NAMES``; the arguments are those of ``load``."""
    if name == "digits":
        return _digits(image_size)
    return _cifar(name, root, image_size, download)


def cifar_in(folder: Path) -> str | None:
    """Which CIFAR dataset a folder holds, if any."""
    return next((name for name, (_, base, _) in _CIFAR.items() if (folder / base).is_dir()), None)


def _digits(image_size: int | None) -> Data:
    """1,797 handwritten digits, 8×8, in this package (digits.txt); every fifth image of each class is a test image."""
    with np.load(Path(__file__).with_name("digits.npz")) as held:
        images, labels = held["images"], held["labels"]
    pixels = (images * (255 / 16)).round().astype(np.uint8)  # 0 to 16
    is_test = np.zeros(len(pixels), bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True
    splits = [split_of(pixels[part], labels[part], image_size) for part in (~is_test, is_test)]
    side = image_size or 8
    return assemble("digits", splits, tuple("0123456789"), (side, side))


def _cifar(name: str, root: Path, image_size: int | None, download: bool) -> Data:
    """CIFAR-10 or CIFAR-100 from torchvision's folder under ``root``."""
    from torchvision import datasets

    class_name, base, statistics = _CIFAR[name]
    folder = root / base
    if not download and not folder.is_dir():
        raise DataError(f"{name} was not found: there is no folder {folder}.", HOW_TO_GET)
    try:
        with warnings.catch_warnings():
            # The published pickles use an old spelling that numpy 2.4 deprecates.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            parts = [
                getattr(datasets, class_name)(root, train=part, download=download and part) for part in (True, False)
            ]
    except (OSError, RuntimeError, ValueError) as error:
        if download:
            raise DataError(
                f"{name} cannot be downloaded to {root}: {error}.",
                "Offline, name its folder with --data FOLDER.",
            ) from error
        raise DataError(
            f"{folder} differs from the published {name}: a file is missing or its md5 differs.",
            "Download it again with --download.",
        ) from error
    side = image_size or 32
    return assemble(
        name,
        [split_of(part.data, np.asarray(part.targets), image_size) for part in parts],
        tuple(parts[0].classes),
        (side, side),
        statistics,
    )
