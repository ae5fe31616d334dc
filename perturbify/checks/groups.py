"""Which networks are runs of one recipe that differ only in their seed, as their files say."""

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
"""Networks that a run writes beside its model: not another run of it."""


@dataclass(frozen=True)
class Trained:
    """A network as a training run.

    Attributes:
        group: What all runs are called that differ only in their seed.
        seed: Of this run.
    """

    group: str
    seed: int


def trained(
    headers: Mapping[str, Header], files: Mapping[str, Path], families: Mapping[str, str]
) -> dict[str, Trained]:
    """Groups networks by their recipes, without the seed.

    What a recipe does not say has to be the same, too: the weights that training began with, and which of a run's
    networks it is. A seed that comes twice begins another group.

    Args:
        headers: By the network's name.
        files: Their files.
        families: What some of them are called together.

    Returns:
        By the network's name; those that no recipe trained are left out, and stand by themselves.

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
    """Makes sure that networks were trained on the same data, as far as their files say.

    Raises:
        CheckError: Two were not.
    """
    hint = "Compare the networks of one dataset at a time: with others, their figures say nothing of each other."
    sets = {n: recipes.of_run(h.recipe, n).data.name for n, h in headers.items() if h.recipe is not None}
    classes = {n: h.classes for n, h in headers.items() if h.classes is not None}
    for name, data in sets.items():
        first, theirs = next(iter(sets.items()))
        if Path(data).name != Path(theirs).name:  # the same file may be named in several ways
            raise CheckError(f"{name} was trained on {data}, and {first} on {theirs}.", hint)
    for name, own in classes.items():
        first, others = next(iter(classes.items()))
        if own != others:
            why = f"{len(own)} against {len(others)}"
            if len(own) == len(others):
                number = next(i for i, pair in enumerate(zip(own, others, strict=True)) if len(set(pair)) > 1)
                why = f"number {number} is {own[number]!r} there, and {others[number]!r} here"
            raise CheckError(f"{name} tells other classes apart than {first}: {why}.", hint)


def distinct(name: str, taken: list[str]) -> str:
    """A name, with the first number behind it that makes it none of those taken."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _common(names: list[str], families: Mapping[str, str]) -> str:
    """What a group is called: as its runs are together, or as the names of all of them begin."""
    given = {families.get(name) for name in names}
    together = given.pop() if len(given) == 1 else None
    if together is not None:
        return together
    columns = zip(*names, strict=False)
    start = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, columns))
    return re.sub(r"[-_. ]*(seed)?[-_. ]*\d*$", "", start)
