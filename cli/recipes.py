"""``perturbify recipes``: list, show, copy, and validate recipes."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from perturbify import recipe
from perturbify.cli.console import Console
from perturbify.cli.options import output_options
from perturbify.errors import OutputExists, PerturbifyError, RecipeError
from perturbify.escape import terminal
from perturbify.settings import Recipe


@click.group(short_help="List, show, copy, and validate recipes.")
def recipes() -> None:
    """List, show, copy, and validate recipes.

    A recipe is a TOML file with all settings of a run. NAME is a built-in recipe or the path of a .toml file.

    \b
      perturbify recipes ls
      perturbify recipes cp digits mine.toml
      perturbify recipes validate mine.toml
    """


@recipes.command()
@output_options
def ls(as_json: bool, quiet: bool) -> None:
    """List the built-in recipes."""
    listed = {name: _description(name) for name in recipe.names()}
    width = max(map(len, listed))
    text = "\n".join(f"{name:{width}}  {said}" for name, said in listed.items())
    values = [{"name": name, "description": said} for name, said in listed.items()]
    Console(quiet=quiet, as_json=as_json).result(text, values)


@recipes.command()
@click.argument("name")
@output_options
def show(name: str, as_json: bool, quiet: bool) -> None:
    """Print the recipe NAME as it was written, or with --json every resolved setting."""
    settings = asdict(recipe.load(name)) if as_json else None  # a recipe with mistakes can be shown as it is
    Console(quiet=quiet, as_json=as_json).result(recipe.text(name).removesuffix("\n"), settings, verbatim=True)


@recipes.command()
@click.argument("name")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DEST if it exists.")
@output_options
def cp(name: str, dest: Path, force: bool, as_json: bool, quiet: bool) -> None:
    """Copy the recipe NAME to DEST, a file or a folder, to edit it there."""
    text = recipe.text(name)
    # os.path takes any text, even one too long for a file's name.
    target = dest / f"{Path(name).stem}.toml" if os.path.isdir(dest) else dest  # noqa: PTH112
    try:
        # "x" tests whether the file exists at the moment of writing.
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputExists(f"{str(target)!r} already exists.", "Overwrite it with --force.") from error
    except OSError as error:
        raise PerturbifyError(f"{str(target)!r} cannot be written: {error.strerror}.") from error
    Console(quiet=quiet, as_json=as_json).result(terminal(target), {"written": str(target)})


@recipes.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting first.")
@output_options
def validate(names: tuple[str, ...], overrides: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Report all mistakes in each recipe NAME, and any code of its author's that it would run.

    Names of models and datasets are not looked up, and nothing is imported.
    """
    looked = {name: _look(name, overrides) for name in names}
    valid = "\n".join(
        f"{terminal(name)}: {terminal(_valid(found))}" for name, found in looked.items() if isinstance(found, Recipe)
    )
    if valid or as_json:
        values = [
            {"recipe": name, "valid": True, "runs": _runs(found), "error": None}
            if isinstance(found, Recipe)
            else {"recipe": name, "valid": False, "runs": None, "error": found}
            for name, found in looked.items()
        ]
        Console(quiet=quiet, as_json=as_json).result(valid, values)
    errors = [found for found in looked.values() if isinstance(found, str)]
    if errors:
        raise RecipeError("\n".join(errors))


def _description(name: str) -> str:
    """The first line of a recipe's header."""
    return recipe.text(name).partition("\n")[0].lstrip("# ")


def _look(name: str, overrides: tuple[str, ...]) -> Recipe | str:
    """The recipe, or its mistakes."""
    try:
        return recipe.load(name, overrides)
    except RecipeError as error:
        return str(error)


def _runs(found: Recipe) -> str | None:
    """The author's function that a recipe calls, if any."""
    if ":" not in found.model:
        return None
    from perturbify import zoo  # torch with it, which takes a second

    return found.model if zoo.is_factory(found.model) else None


def _valid(found: Recipe) -> str:
    runs = _runs(found)
    return "valid" if runs is None else f"valid, and runs code: {runs} builds its network (finetune --trust-factory)"
