"""``perturbify recipes``: what lands on stdout, what is refused, and what is never overwritten."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perturbify import recipe
from perturbify.cli.recipes import recipes
from perturbify.errors import OutputExists, PerturbifyError, RecipeError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(recipes, [str(argument) for argument in arguments])


def output(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exception is None
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("command", ["ls", "show", "cp", "validate"])
def test_help(command: str) -> None:
    assert "Usage:" in output(command, "--help")


def test_ls_prints_one_line_per_recipe() -> None:
    lines = output("ls").splitlines()
    assert [line.split()[0] for line in lines] == list(recipe.names())
    assert (
        lines[0].split("  ", 1)[1].lstrip()
        == "Learn2Perturb on CIFAR-10: the paper's method with the release's schedule."
    )
    assert json.loads(output("ls", "--json"))[0] == {
        "name": "cifar10",
        "description": "Learn2Perturb on CIFAR-10: the paper's method with the release's schedule.",
    }


def test_show_prints_the_file_or_every_setting() -> None:
    assert output("show", "digits") == recipe.text("digits")
    settings = json.loads(output("show", "digits", "--json"))
    assert settings == json.loads(json.dumps(asdict(recipe.load("digits"))))


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    for arguments in (["show", "digit"], ["cp", "digit", "x.toml"], ["validate", "digit"]):
        error = run(*arguments).exception
        assert isinstance(error, RecipeError)
        assert "Did you mean 'digits'" in str(error)


def test_cp_to_a_file_and_to_a_folder(tmp_path: Path) -> None:
    assert output("cp", "cifar10", tmp_path / "mine.toml") == f"{tmp_path / 'mine.toml'}\n"
    assert output("cp", tmp_path / "mine.toml", tmp_path / "again.toml")
    assert output("cp", "cifar10", tmp_path) == f"{tmp_path / 'cifar10.toml'}\n"
    for copy in ("mine.toml", "again.toml", "cifar10.toml"):
        assert (tmp_path / copy).read_text(encoding="utf-8") == recipe.text("cifar10")


def test_cp_overwrites_only_when_forced(tmp_path: Path) -> None:
    target = tmp_path / "digits.toml"
    target.write_text("mine", encoding="utf-8")
    for dest in (target, tmp_path):
        error = run("cp", "digits", dest).exception
        assert isinstance(error, OutputExists)
        assert "--force" in str(error)
    assert target.read_text(encoding="utf-8") == "mine"
    output("cp", "digits", target, "--force")
    assert target.read_text(encoding="utf-8") == recipe.text("digits")


def test_cp_into_a_missing_folder_fails_clearly(tmp_path: Path) -> None:
    error = run("cp", "digits", tmp_path / "no" / "where.toml").exception
    assert isinstance(error, PerturbifyError)
    assert "cannot be written: No such file or directory" in str(error)


def test_validate_all_built_ins() -> None:
    assert output("validate", *recipe.names()) == "".join(f"{name}: valid\n" for name in recipe.names())


def test_validate_reports_the_mistakes_of_every_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(recipe.text("smoke").replace("epochs = 2", "epochs = 0"), encoding="utf-8")
    result = run("validate", "digits", path, "nowhere")
    assert result.stdout == "digits: valid\n"
    assert isinstance(result.exception, RecipeError)
    assert "train.epochs must be at least 1, not 0" in str(result.exception)
    assert "no recipe 'nowhere'" in str(result.exception)


def test_validate_with_overrides_and_json() -> None:
    assert json.loads(output("validate", "digits", "--set", "train.epochs=20", "--json")) == [
        {"recipe": "digits", "valid": True, "runs": None, "error": None}
    ]
    result = run("validate", "digits", "--set", "train.epoch=20", "--set", "seed=-1", "--json")
    (said,) = json.loads(result.stdout)
    assert not said["valid"]
    assert said["error"] == str(result.exception)
    assert "train.epoch is unknown" in said["error"]
    assert "seed must be" in said["error"]


def test_validate_without_arguments_is_a_usage_error() -> None:
    assert run("validate").exit_code == 2
