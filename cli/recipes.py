"""``perturbify recipes``: list, show, copy, and validate recipes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from perturbify import recipe
from perturbify.errors import OutputExists, PerturbifyError, RecipeError

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group()
def recipes() -> None:
    """List, show, copy, and validate recipes.

    A recipe is a TOML file with all settings of a run. NAME is that of a built-in recipe, or a path to a
    .toml file.
    """


@recipes.command()
@json_option
def ls(as_json: bool) -> None:
    """List the built-in recipes."""
    listed = {name: _description(name) for name in recipe.names()}
    if as_json:
        _print_json([{"name": name, "description": said} for name, said in listed.items()])
        return
    width = max(map(len, listed))
    for name, said in listed.items():
        click.echo(f"{name:{width}}  {said}")


@recipes.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print the recipe NAME as it was written, or with --json every setting that it comes to."""
    if as_json:
        _print_json(asdict(recipe.load(name)))
    else:
        click.echo(recipe.text(name), nl=False)


@recipes.command()
@click.argument("name")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DEST if it exists.")
def cp(name: str, dest: Path, force: bool) -> None:
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
    click.echo(target)


@recipes.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting first.")
@json_option
def validate(names: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Say everything that is wrong with each recipe NAME.

    The names of models and datasets are not looked up.
    """
    wrong = {name: _error(name, overrides) for name in names}
    if as_json:
        _print_json([{"recipe": name, "valid": not error, "error": error} for name, error in wrong.items()])
    else:
        for name, error in wrong.items():
            if error is None:
                click.echo(f"{name}: valid")
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


def _print_json(result: Any) -> None:
    click.echo(json.dumps(result, indent=2, ensure_ascii=False))
