"""Recipes: everything that defines a run, read from TOML.

A recipe is read strictly: whatever is unknown, missing, of the wrong type, or out of range is reported,
all at once.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from perturbify import methods, schema
from perturbify.errors import MethodError, RecipeError, nearest
from perturbify.escape import terminal
from perturbify.settings import RULES, Recipe
from perturbify.surgery.config import PerturbConfig, current_names

LONGEST = 50_000
"""Bytes of a recipe; the built-in ones have up to 3,000."""
_DOTS = 2_000  # in the whole text: reading a dotted key takes time quadratic in its length
_ON_THE_COMMAND_LINE = {"pretrained": "--pretrained", "weights": "--weights FILE", "reset_head": "--reset-head"}


def names() -> tuple[str, ...]:
    """The built-in recipes, sorted."""
    return tuple(sorted(f.name[: -len(".toml")] for f in _built_in().iterdir() if f.name.endswith(".toml")))


def text(name_or_path: str | Path) -> str:
    """The TOML text of a recipe, as written.

    Args:
        name_or_path: A built-in name, or a path to a ``.toml`` file.

    Raises:
        RecipeError: There is no such recipe, or its file cannot be read.
    """
    if str(name_or_path) in names():
        return (_built_in() / f"{name_or_path}.toml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if not os.path.isfile(path):  # noqa: PTH113 -- which takes any string, even one too long for a file name
        raise RecipeError(
            f"There is no recipe {str(name_or_path)!r}.",
            f"{nearest(path.stem, names()) or 'Built in: ' + ', '.join(names()) + '.'} "
            "A path to a .toml file works too.",
        )
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise RecipeError(f"The recipe {str(path)!r} cannot be read: {error.strerror}.") from error
    _refuse_long(content, str(path))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"The recipe {str(path)!r} cannot be read: {error}.") from error


def load(name_or_path: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        name_or_path: A built-in name, or a path to a ``.toml`` file.
        overrides: What to change in it, checked like the rest. Either ``{"train.epochs": 5}``, or strings
            such as ``"train.epochs=5"``, whose value is TOML or else a bare string. None, or nothing after
            the ``=``, removes the key, so that its default applies. Another ``method`` brings its own noise and
            ``train.gamma``: the recipe's are for the recipe's method.

    Raises:
        RecipeError: There is no such recipe, or it has mistakes; lists all of them.
    """
    name = Path(name_or_path).stem
    table = _parse(text(name_or_path), name)
    mistakes = []
    if isinstance(overrides, Mapping):
        changes = list(overrides.items())
    else:
        split = [override.partition("=") for override in overrides]
        mistakes = [f"{key} is an override without a value; write key=value" for key, sign, _ in split if not sign]
        changes = [(key.strip(), _value(raw.strip())) for key, sign, raw in split if sign]
    for key, value in changes:
        if key == "method" and value != table.get("method"):
            for others in ("perturb", "train.gamma", *(() if _warms_up(value) else ("train.warmup_epochs",))):
                _change(table, others, None)
    for key, value in changes:
        _change(table, key, value)
    return _read(table, name, mistakes)


def from_toml(text: str, name: str) -> Recipe:
    """Reads a recipe from its text.

    Args:
        text: The TOML.
        name: The recipe's name.

    Raises:
        RecipeError: It is not TOML, or has mistakes; lists all of them.
    """
    return _read(_parse(text, name), name, [])


def of_run(text: str, name: str) -> Recipe:
    """Reads the recipe of a run or a checkpoint, which was written with all keys of its time, under their names then.

    Later settings do not apply to it.

    Args and errors as for :func:`from_toml`.
    """
    table = _parse(text, name)
    if isinstance(table.get("train"), dict):
        table["train"] = {"theta_schedule": "plain", **table["train"]}
    if isinstance(table.get("perturb"), dict):
        table["perturb"] = current_names(table["perturb"])
    return _read(table, name, [])


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every key written; :func:`from_toml` reads an equal recipe back."""
    return schema.write(recipe, skip=("name",))


def _built_in() -> Traversable:
    return resources.files("perturbify.recipes")


def _refuse_long(content: bytes, name: str, times: int = 1) -> None:
    if len(content) > times * LONGEST or content.count(b".") > times * _DOTS:
        raise RecipeError(f"Recipe {name!r} has more than {times * LONGEST:,} bytes or {times * _DOTS:,} dots.")


def _parse(text: str, name: str) -> dict[str, Any]:
    # A run's resolved recipe is longer than the one it was read from.
    _refuse_long(text.encode("utf-8", "surrogatepass"), name, times=2)
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, which gives the line, or an integer too long for Python
        raise RecipeError(f"Recipe {name!r} is not valid TOML: {error}.") from error
    except RecursionError as error:
        raise RecipeError(f"Recipe {name!r} nests tables or lists too deeply.") from error


def _read(table: Mapping[str, Any], name: str, mistakes: list[str]) -> Recipe:
    excess = schema.excess(table)
    if excess is not None:
        raise RecipeError(f"Recipe {name!r} has a mistake:\n  {terminal(excess)}")
    defaults: dict[type, Any] = {}
    unknown: list[str] = []
    table = {"method": methods.DEFAULT, **table}
    chosen = table["method"]
    try:
        noise = methods.get(chosen).perturb if isinstance(chosen, str) else None
        defaults = {PerturbConfig: noise} if noise is not None else {}
    except MethodError as error:
        unknown = [f"method is unknown: {error}"]
    recipe, found = schema.read(Recipe, table, RULES, {"name": name}, defaults)
    given = table.get("model_args")
    reserved = [
        f"model_args.{key} does not belong in a recipe: use {way}"
        for key, way in _ON_THE_COMMAND_LINE.items()
        if isinstance(given, dict) and key in given
    ]
    mistakes = mistakes + found + unknown + reserved
    if mistakes:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise RecipeError("\n  ".join([f"Recipe {name!r} has {count}:", *map(terminal, mistakes)]))
    return recipe


def _warms_up(method: Any) -> bool:
    """Whether a method begins without its noise; an unknown method is reported later."""
    return method not in methods.names() or methods.get(method).alternates


def _value(raw: str) -> Any:
    """The value of an override: TOML where it is TOML, else the bare string; None where there is nothing."""
    try:
        table = tomllib.loads(f"value = {raw}") if raw else {"value": None}
    except (ValueError, RecursionError):
        return raw
    # A line break in it could start another key.
    return table["value"] if len(table) == 1 else raw


def _change(table: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        # What is not a table is replaced by one, so that the type check reports it.
        if not isinstance(table.get(section), dict):
            table[section] = {}
        table = table[section]
    if value is None:
        table.pop(last, None)
    else:
        table[last] = value
