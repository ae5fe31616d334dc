"""Which networks are runs of one recipe that differ only in their seed, according to their files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from perturbify import recipe as recipes
from perturbify.checkpoint.header import Header
from perturbify.errors import CheckError

_OTHERS = {"best", "average"}
"""Networks that a run writes besides its model; they are not further runs."""


@dataclass(frozen=True)
class Trained:
    """A network as a training run.

    Attributes:
        group: Name of all the runs that differ only in their seed.
        seed: This run's seed.
    """

    group: str
    seed: int


def trained(
    headers: Mapping[str, Header], files: Mapping[str, Path], families: Mapping[str, str]
) -> dict[str, Trained]:
    """Groups networks by their recipes, ignoring the seed.

    What a recipe does not say has to be the same, too: the weights that training started from, and which of a run's
    networks it is. A seed that occurs twice starts another group.

    Args:
        headers: The files' headers, by the networks' names.
        files: Their files.
        families: Common names of some of them.

    Returns:
        The runs by the networks' names; networks that no recipe trained are left out.

    Raises:
        RecipeError: The recipe in a file has mistakes.
    """
    groups: list[tuple[str, dict[str, int]]] = []
    for name, header in headers.items():
        if header.recipe is None:
            continue
        recipe = recipes.of_run(header.recipe, name)
        kind = files[name].stem if files[name].stem in _OTHERS else "model"
        same = [recipes.to_toml(replace(recipe, seed=0)), header.model, header.config, header.normalize, kind]
        key = json.dumps(same, sort_keys=True)
        group = next((runs for k, runs in groups if k == key and recipe.seed not in runs.values()), None)
        if group is None:
            group = {}
            groups.append((key, group))
        group[name] = recipe.seed
    found: dict[str, Trained] = {}
    alone = headers.keys() - {name for _, runs in groups for name in runs}
    called: list[str] = [*alone, *(name for _, runs in groups if len(runs) == 1 for name in runs)]
    for _, runs in groups:
        name = next(iter(runs))
        if len(runs) > 1:
            name = distinct(_common(list(runs), families) or headers[name].method or "runs", called)
            called.append(name)
        found |= {run: Trained(name, seed) for run, seed in runs.items()}
    return found


def check_same_data(headers: Mapping[str, Header]) -> None:
    """Makes sure that networks were trained on the same data, as far as their files tell.

    Raises:
        CheckError: Two of them were not.
    """
    hint = "Compare networks of one dataset at a time: figures on different data are not comparable."
    sets = {n: recipes.of_run(h.recipe, n).data.name for n, h in headers.items() if h.recipe is not None}
    classes = {n: h.classes for n, h in headers.items() if h.classes is not None}
    for name, data in sets.items():
        first, theirs = next(iter(sets.items()))
        if Path(data).name != Path(theirs).name:  # the same file may be named in several ways
            raise CheckError(f"{name} was trained on {data}, but {first} on {theirs}.", hint)
    for name, own in classes.items():
        first, others = next(iter(classes.items()))
        if own != others:
            why = f"{len(own)} instead of {len(others)}"
            if len(own) == len(others):
                number = next(i for i, pair in enumerate(zip(own, others, strict=True)) if len(set(pair)) > 1)
                why = f"class {number} is {own[number]!r} in one and {others[number]!r} in the other"
            raise CheckError(f"{name} and {first} have different classes: {why}.", hint)


def distinct(name: str, taken: list[str]) -> str:
    """A name, with the first number appended that makes it unique."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _common(names: list[str], families: Mapping[str, str]) -> str:
    """A group's name: the runs' common name, or how all of their names begin."""
    given = {families.get(name) for name in names}
    together = given.pop() if len(given) == 1 else None
    if together is not None:
        return together
    columns = zip(*names, strict=False)
    start = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, columns))
    return re.sub(r"[-_. ]*(seed)?[-_. ]*\d*$", "", start)
