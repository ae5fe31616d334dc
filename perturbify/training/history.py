"""The metrics of a run's epochs: in ``metrics.jsonl``, and in the state, which takes precedence."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perturbify import strict_json
from perturbify.files import MOST, is_regular, set_aside, write_text

Epoch = dict[str, Any]

MOST_IN_STATE = 2_000_000
"""Characters of metrics that a state keeps, the newest ones: 450 epochs of a ResNet-50."""


def read(path: Path) -> tuple[list[Epoch], bool]:
    """Reads ``metrics.jsonl``.

    Args:
        path: The file; it may be absent.

    Returns:
        The epochs that it holds, and whether it holds nothing else.
    """
    if not os.path.lexists(path):
        return [], True
    if not is_regular(path, MOST):
        return [], False
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError:
        return [], False
    epochs: list[Epoch] = []
    for line in lines:
        try:
            epoch = strict_json.loads(line.decode())
            check([*epochs[-1:], epoch])
        except ValueError:
            continue
        epochs.append(epoch)
    return epochs, len(epochs) == len(lines) and not last


def write(path: Path, epochs: Sequence[Epoch]) -> None:
    """Writes ``metrics.jsonl`` atomically: a killed run leaves no half line."""
    write_text(path, "".join(json.dumps(e) + "\n" for e in epochs))


def settle(path: Path, kept: Sequence[Epoch], before: int) -> list[Epoch]:
    """Brings the file into line with the state that a run resumes from.

    Whatever else is in the file, or in its place, is kept under another name, with a warning.

    Args:
        path: The file.
        kept: The epochs that the state holds.
        before: The epoch that the state is in.

    Returns:
        All known epochs before that one.

    Raises:
        PerturbifyError: The file cannot be written.
    """
    there, intact = read(path)
    first = kept[0]["epoch"] if kept else before
    epochs = [e for e in there if e["epoch"] < first] + list(kept)
    # Killed between the two writes, a run has written an epoch's metrics, but not yet its state.
    same = [e for e in there if e["epoch"] < before] == epochs and all(e["epoch"] <= before for e in there)
    if os.path.lexists(path) and not (intact and same):
        aside = set_aside(path)
        warnings.warn(
            f"{path} was changed since the run wrote it: it is kept as {aside.name}, and restored from the state.",
            stacklevel=2,
        )
    if epochs and not os.path.lexists(path):
        write(path, epochs)
    if len(epochs) < before:
        warnings.warn(f"The metrics of {before - len(epochs)} of {before} epochs are lost.", stacklevel=2)
    return epochs


def newest(epochs: Sequence[Epoch]) -> list[Epoch]:
    """The metrics that a state keeps."""
    room, kept = MOST_IN_STATE, 0
    for epoch in reversed(epochs):
        room -= len(json.dumps(epoch))
        if room < 0:
            break
        kept += 1
    return list(epochs[len(epochs) - kept :])


def check(epochs: Any) -> None:
    """Checks that values are the metrics of epochs, in order.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(epochs, list) or not all(isinstance(e, dict) and _is_epoch(e) for e in epochs):
        raise ValueError("no metrics of an epoch")
    numbers = [e["epoch"] for e in epochs]
    if numbers != sorted(set(numbers)):
        raise ValueError("epochs that are not in order")


def _is_epoch(epoch: Epoch) -> bool:
    counts = _are(epoch, int, "epoch", "images") and _all(epoch.get("steps"), int)
    figures = _are(epoch, float, "clean_loss", "clean_accuracy", "seconds", "images_per_second")
    attacked = _are(epoch, float | None, "adversarial_loss", "adversarial_accuracy")
    theta, held_out = epoch.get("theta"), epoch.get("held_out", {})
    thetas = theta is None or (
        isinstance(theta, dict)
        and _are(theta, float, "mean", "min", "max")
        and _all(theta.get("sites"), float)
        and _all(theta.get("relative", {}), float | None)
    )
    return counts and figures and attacked and thetas and _all(epoch.get("lr"), float) and _all(held_out, float)


def _are(values: Epoch, kind: Any, *names: str) -> bool:
    return all(name in values and _is(values[name], kind) for name in names)


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, dict) and all(_is(value, kind) for value in values.values())


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; an integer counts as a number, a bool does not, and no count is negative."""
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int) and value >= 0
    return isinstance(value, int | kind)
