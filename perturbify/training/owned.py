"""Which files in a run's folder are the run's own, by their content: only those may be removed or replaced.

What needs torch is imported where a file is read: a folder that holds no run is refused without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from perturbify import recipe as recipes
from perturbify import strict_json
from perturbify.errors import PerturbifyError
from perturbify.files import LOCK, MOST, is_regular, is_signed
from perturbify.training import history

STATE = "perturbify-state"
"""The metadata entry of a state."""

_REPORT = {"schema", "verdict", "results", "criteria", "machine"}
_COMPARISON = {"schema", "networks", "machine", "epsilon"}
_CERTIFICATE = {"schema", "certified", "sigma", "images"}
_PASSING = re.compile(rf"{re.escape(LOCK)}|\..+\.\d+\.tmp")


def is_ours(path: Path) -> bool:
    """Whether a file with the name of one of a run's holds what a run or its check would have written there."""
    return is_regular(path) and _rule(path)(path)


def is_state(path: Path) -> bool:
    """Whether a file is a state of a run, valid or not."""
    return _has(path, STATE)


def is_report(path: Path) -> bool:
    """Whether a file is a check's report as JSON, of this version or another; or an object with nothing in it."""
    return _is_object(path, _REPORT)


def is_passing(name: str) -> bool:
    """Whether a file of that name is a temporary one, of a running or killed process."""
    return _PASSING.fullmatch(name) is not None


def _rule(path: Path) -> Callable[[Path], bool]:
    if path.name == "recipe.toml":
        return _is_recipe
    if path.name == "metrics.jsonl":
        return lambda p: history.read(p)[1]
    if path.name.startswith("records-"):
        from perturbify.checks import records

        return records.is_ours
    if path.name.startswith("events.out.tfevents."):
        return _begins_with(b"brain.Event:")  # the version, in the first record
    if path.name.startswith("state."):
        return is_state
    if path.name == "comparison.json":
        return lambda p: _is_object(p, _COMPARISON)
    if path.name == "certificate.json":
        return lambda p: _is_object(p, _CERTIFICATE)
    rules: dict[str, Callable[[Path], bool]] = {
        ".safetensors": _is_trained,
        ".json": is_report,
        ".png": _begins_with(b"Software\0perturbify"),
    }
    return rules.get(path.suffix, is_signed)


def _is_recipe(path: Path) -> bool:
    """Whether a recipe is as a run would write it, except for keys added later: a user's comment would be lost."""
    try:
        text = path.read_text(encoding="utf-8") if is_regular(path, MOST) else ""
        written = iter(recipes.to_toml(recipes.of_run(text, "run")).splitlines())
        return text.endswith("\n") and all(line in written for line in text.splitlines())
    except (OSError, ValueError, PerturbifyError):
        return False


def _begins_with(what: bytes) -> Callable[[Path], bool]:
    """Whether the beginning of a file contains a text, such as the name of its writer."""

    def says(path: Path) -> bool:
        try:
            with path.open("rb") as file:
                return what in file.read(4096)
        except OSError:
            return False

    return says


def _is_trained(path: Path) -> bool:
    """Whether a file is a checkpoint that a run wrote: one with a recipe, unlike a converted one."""
    from perturbify.checkpoint import files as checkpoints

    try:
        return is_regular(path) and checkpoints.read_header(path).recipe is not None
    except (PerturbifyError, OSError):
        return False


def _has(path: Path, key: str) -> bool:
    from perturbify.checkpoint import container

    try:
        return is_regular(path) and key in container.peek(path).metadata
    except (PerturbifyError, OSError):
        return False


def _is_object(path: Path, keys: set[str]) -> bool:
    """Whether a file is a JSON object with these keys, or with none at all."""
    try:
        values = strict_json.loads(path.read_text(encoding="utf-8")) if is_regular(path, MOST) else None
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and (not values or values.keys() >= keys)
