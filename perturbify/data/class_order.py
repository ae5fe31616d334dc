"""The order in which classes are numbered: by name, as timm does, or as in a file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from perturbify.errors import DataError, nearest
from perturbify.text import first_line

SORTED, NATURAL = "sorted", "natural"
_MOST_BYTES = 2**26  # of a file of classes


def in_order(where: str, classes: Sequence[str], order: str | None) -> tuple[list[str], tuple[str, ...]]:
    """Sorts the names of classes in the order of their labels.

    Args:
        where: Their folder or file, for messages.
        classes: Their names.
        order: ``"sorted"`` as torchvision does, ``"natural"`` as timm does (2 before 10), or a file: one name per line,
            a JSON list of names, or a JSON object from names to labels. None sorts, and notes if timm's order differs.

    Returns:
        The names, and notes on their order.

    Raises:
        DataError: There is no such order or file, or the file has other classes.
    """
    by_name, natural = sorted(classes), sorted(classes, key=natural_key)
    if order is None:
        if by_name == natural:
            return by_name, (_said(by_name, "sorted"),)
        return by_name, (
            _said(by_name, "sorted"),
            f"warning: timm's order differs, {_few(natural)}; if timm trained the network, use --class-order natural.",
        )
    if order == SORTED:
        return by_name, (_said(by_name, "sorted"),)
    if order == NATURAL:
        return natural, (_said(natural, "in natural order"),)
    named = _read(Path(order).expanduser())
    missing, others = sorted(set(classes) - set(named)), sorted(set(named) - set(classes))
    if missing or others:
        parts = [f"it lacks {_few(missing)}"] if missing else []
        parts += [f"it names {_few(others)}, which {where} does not have"] if others else []
        raise DataError(f"The classes in {order} are not those of {where}: {'; '.join(parts)}.")
    return named, (_said(named, f"as {order} says"),)


def natural_key(name: str) -> list[int | str]:
    """timm's sort key: runs of digits count as numbers, case is ignored."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


def _said(names: Sequence[str], how: str) -> str:
    return f"{len(names)} classes, {how}: {_few(names)}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _read(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is too large for a list of classes.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"There is no class order {str(path)!r}.",
            f"{nearest(path.name, (SORTED, NATURAL))} Use sorted, natural, or a file with one name per line.".lstrip(),
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error
    found: object = [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("[", "{")):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON: {first_line(error)}.") from error
    if isinstance(found, dict):
        by_label = {str(label): name for name, label in found.items()}
        if set(by_label) != set(map(str, range(len(found)))):
            raise DataError(f"The labels in {path} are not 0 to {len(found) - 1}, each once.")
        found = [by_label[str(label)] for label in range(len(found))]
    if not (isinstance(found, list) and found and all(isinstance(name, str) for name in found)):
        raise DataError(f"{path} names no classes.", "Write one name per line, or a JSON list of names.")
    if twice := [name for name, times in Counter(found).items() if times > 1]:
        raise DataError(f"{path} names the class {twice[0]!r} twice.")
    return found
