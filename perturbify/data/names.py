"""Names of classes and datasets: any that can be written to a file and told apart by a reader."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from perturbify.errors import DataError

LONGEST = 1000
"""The most characters of a class's name."""


def check_name(name: str) -> None:
    """Makes sure that a dataset's name can be written.

    Raises:
        DataError: It is not UTF-8.
    """
    if not _can_be_written(name):
        raise DataError(f"The name of the dataset {name!r} is not UTF-8, so it cannot be saved.", "Rename it.")


def check_class_names(where: str, classes: Sequence[str], *, fold_case: bool = False) -> None:
    """Makes sure, before any work, that each class has a unique name that can be written.

    Args:
        where: The dataset or folder, for messages.
        classes: Their names in the order of their labels.
        fold_case: Whether names that differ only in case count as the same.

    Raises:
        DataError: A name is empty, too long, not UTF-8, or looks the same as another.
    """
    seen: dict[str, int] = {}
    for label, name in enumerate(classes):
        if len(name) > LONGEST:
            raise DataError(
                f"The name of class {label} of {where} has {len(name):,} characters, more than {LONGEST:,}.",
                "Give it a shorter one.",
            )
        if not _can_be_written(name):
            raise DataError(
                f"The name of class {label} of {where}, {name!r}, is not UTF-8, so it cannot be saved.",
                "Rename it.",
            )
        looks = _looks(name, fold_case)
        if not looks:
            raise DataError(f"Class {label} of {where} has no name: {name!r}.", "Name it.")
        before = classes[seen.setdefault(looks, label)]
        if seen[looks] != label:
            but = "" if before == name else ", except for " + ("case, " if fold_case else "") + "spaces or accents"
            raise DataError(
                f"Classes {seen[looks]} and {label} of {where} have the same name{but}: {before!r} and {name!r}.",
                "Rename one of the two.",
            )


def told_apart(names: Sequence[str | tuple[str, ...]]) -> tuple[str, ...]:
    """Class names from other libraries: the first of several synonyms; a repeated name gets its label appended.

    ImageNet lists all synonyms of a class; the first is the usual name. Two of its classes are cranes: the bird and the
    machine.
    """
    first = [name if isinstance(name, str) else name[0] for name in names]
    return tuple(f"{name} ({label})" if first.count(name) > 1 else name for label, name in enumerate(first))


def _can_be_written(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _looks(name: str, fold_case: bool) -> str:
    """What a reader sees of a name: without invisible characters, with accents in one form."""
    if name.isascii():
        seen = name
    else:
        seen = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    seen = " ".join(seen.split())
    return seen.casefold() if fold_case else seen
