"""``perturbify recipes``: list, show, copy, and validate recipes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from perturbify import recipe
from perturbify.cli.console import Console
from perturbify.cli.options import output_options
from perturbify.errors import OutputExists, PerturbifyError, RecipeError


@click.group()
def recipes() -> None:
    """List, show, copy, and validate recipes.

    A recipe is a TOML file with all settings of a run. NAME is that of a built-in recipe, or a path to a
    .toml file.
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
    """Print the recipe NAME as it was written, or with --json every setting that it comes to."""
    settings = asdict(recipe.load(name)) if as_json else None  # a recipe with mistakes can be shown as it is
    Console(quiet=quiet, as_json=as_json).result(recipe.text(name).removesuffix("\n"), settings)


@recipes.command()
@click.argument("name")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DEST if it exists.")
@output_options
def cp(name: str, dest: Path, force: bool, as_json: bool, quiet: bool) -> None:
    """Copy the recipe NAME to DEST, a file or a folder, to change it there."""
    text = recipe.text(name)
    target = dest / f"{Path(name).stem}.toml" if dest.is_dir() else dest
    try:
        # "x" leaves the question whether the file exists to the moment of writing.
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputExists(f"{str(target)!r} exists.", "Overwrite it with --force.") from error
    except OSError as error:
        raise PerturbifyError(f"{str(target)!r} cannot be written: {error.strerror}.") from error
    Console(quiet=quiet, as_json=as_json).result(str(target), {"written": str(target)})


@recipes.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting first.")
@output_options
def validate(names: tuple[str, ...], overrides: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Say everything that is wrong with each recipe NAME.

    The names of models and datasets are not looked up.
    """
    wrong = {name: _error(name, overrides) for name in names}
    valid = "\n".join(f"{name}: valid" for name, error in wrong.items() if error is None)
    if valid or as_json:
        values = [{"recipe": name, "valid": not error, "error": error} for name, error in wrong.items()]
        Console(quiet=quiet, as_json=as_json).result(valid, values)
    errors = [error for error in wrong.values() if error is not None]
    if errors:
        raise RecipeError("\n".join(errors))


def _description(name: str) -> str:
    """The first line of a recipe's head."""
    return recipe.text(name).partition("\n")[0].lstrip("# ")


def _error(name: str, overrides: tuple[str, ...]) -> str | None:
    try:
        recipe.load(name, overrides)
    except RecipeError as error:
        return str(error)
    return None
