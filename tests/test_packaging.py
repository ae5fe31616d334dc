"""What a user installs: one package, with its recipes, and nothing else beside it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from perturbify import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]

BESIDE_THE_CODE = {
    "perturbify/py.typed",
    "perturbify/_normal.pyi",
    "perturbify/checkpoint/header.schema.json",
    "perturbify/data/digits.npz",
    "perturbify/data/digits.txt",
}


def folder_of(package):
    """The folder of a package in the source tree, by the longest prefix that ``package-dir`` names."""
    places = SETUPTOOLS["package-dir"]
    prefix = max((p for p in places if f"{package}.".startswith(f"{p}.")), key=len)
    return ROOT / places[prefix] / Path(*package.removeprefix(prefix).strip(".").split("."))


def modules():
    """Every Python file that there is, by the path it must have once it is installed."""
    for top, place in (("perturbify", "perturbify"), ("cli", "perturbify/cli"), ("recipes", "perturbify/recipes")):
        for path in (ROOT / top).rglob("*.py"):
            yield f"{place}/{path.relative_to(ROOT / top).as_posix()}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy: the source tree gets no build folder."""
    source, built = sources(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("built")
    pip("wheel", "--no-build-isolation", "--wheel-dir", built, source)
    (made,) = built.iterdir()
    return made


def sources(source):
    """What the package is built from, copied to a folder."""
    for name in ("perturbify", "cli", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for extra in ("tests", "docs", "scratch", "benchmarks"):  # as in the source tree, where they must be left out
        (source / extra).mkdir()
        (source / extra / "__init__.py").write_text("")
    return source


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--target", target, wheel)
    return target


def pip(command, *arguments, **environment):
    subprocess.run(
        [sys.executable, "-m", "pip", command, "--no-deps", "--no-index", "--quiet", *map(str, arguments)],
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment,
        check=True,
    )


def test_listed_packages_are_exactly_those_that_exist():
    found = {path.rpartition("/")[0].replace("/", ".") for path in modules()}
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)
    for package in SETUPTOOLS["packages"]:
        assert (folder_of(package) / "__init__.py").is_file(), package


def test_the_versions_agree():
    assert PROJECT["project"]["version"] == __version__


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    info = f"perturbify-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"perturbify", info}
    held = {name for name in names if name.startswith("perturbify/")}
    recipes = {f"perturbify/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.toml")}
    assert len(recipes) >= 4
    compiled = {f"perturbify/_normal{sysconfig.get_config_var('EXT_SUFFIX')}"} if shutil.which("cc") else set()
    assert held == {*modules(), *recipes, *compiled, *BESIDE_THE_CODE}


def test_without_a_c_compiler_torch_draws_the_noise(tmp_path):
    (tmp_path / "source").mkdir()
    target = tmp_path / "installed"
    pip("install", "--no-build-isolation", "--target", target, sources(tmp_path / "source"), CC="no-such-compiler")
    assert not list(target.rglob("*.so"))
    # The development install would find the module that this one lacks.
    program = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import torch, perturbify.normal as n
print(n._normal, n.standard_normal_like(torch.empty(9999)).std())
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout.startswith("None tensor("), run.stderr


def test_its_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    info = f"perturbify-{__version__}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert "\nRequires-Dist: torch>=2.8\n" in metadata
    assert "\nLicense-Expression: Apache-2.0 AND CC-BY-4.0\n" in metadata  # the second is the digits'
    assert b"Alpaydin" in archive.read(f"{info}/licenses/perturbify/data/digits.txt")
    assert "perturbify = perturbify.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_nothing_else_lands_in_site_packages(installed):
    assert {p.name for p in installed.iterdir()} == {"perturbify", f"perturbify-{__version__}.dist-info", "bin"}
    assert [p.name for p in (installed / "bin").iterdir()] == ["perturbify"]


def test_it_runs_from_where_it_is_installed(installed, tmp_path):
    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout

    where = python("-c", "import perturbify.cli, perturbify.recipes as r; print(r.__file__, perturbify.cli.__file__)")
    assert all(Path(place).is_relative_to(installed) for place in where.split())
    listed = python("-m", "perturbify", "recipes", "ls")
    assert {line.split()[0] for line in listed.splitlines()} == {
        path.stem for path in (ROOT / "recipes").glob("*.toml")
    }
    assert python("-m", "perturbify", "recipes", "show", "digits") == (ROOT / "recipes" / "digits.toml").read_text(
        encoding="utf-8"
    )
