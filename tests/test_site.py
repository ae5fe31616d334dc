"""The documentation builds as a site, in which nothing is dead, and its links work in the repository as well."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import perturbify

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def build(target, root=ROOT):
    """What mkdocs says, and with which status: warnings are errors by mkdocs.yml."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", root / "mkdocs.yml", "--site-dir", target],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    done = build(target)
    assert done.returncode == 0, done.stderr
    return target


def test_every_public_name_is_in_the_reference(site):
    page = (site / "reference" / "perturbify" / "index.html").read_text(encoding="utf-8")
    missing = [name for name in perturbify.__all__ if f'id="perturbify.{name}"' not in page]
    assert missing == ["__version__"]
    assert ":func:" not in page and ":class:" not in page
    assert re.search(r'<a [^>]*href="[^"]*#perturbify\.wrap"', page), "a docstring's role is a link"


def test_rooms_have_pages_in_the_reference(site):
    for room, name in {"attacks": "Attack.craft", "certification": "certify", "methods": "Method.penalty"}.items():
        page = (site / "reference" / room / "index.html").read_text(encoding="utf-8")
        assert f'id="perturbify.{room}.{name}"' in page


def test_what_lies_outside_of_docs_comes_along(site):
    for path in ("examples/own_attack.py", "perturbify/data/digits.txt", "benchmarks/results/2026-11-27-gpu.json"):
        assert (site / path).read_bytes() == (ROOT / path).read_bytes()
    assert 'href="examples/first_steps.ipynb"' in (site / "index.html").read_text(encoding="utf-8")


def test_it_fetches_nothing_when_it_is_read(site):
    page = (site / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', page)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[dead](nowhere.md) [dead](guide.md#no-anchor) [dead](../examples/nowhere.py) [dead][perturbify.no_name]",
            ["nowhere.md", "no-anchor", "nowhere.py", "perturbify.no_name"],
        ),
        ("::: perturbify.nowhere", ["perturbify.nowhere"]),
    ],
    ids=["links", "reference"],
)
def test_what_is_dead_is_an_error(text, said, tmp_path):
    for name in ("docs", "examples", "perturbify", "benchmarks", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    (tmp_path / "docs").mkdir()
    for path in (ROOT / "docs").iterdir():
        (tmp_path / "docs" / path.name).symlink_to(path)
    page = tmp_path / "docs" / "index.md"
    content = page.read_text(encoding="utf-8")
    page.unlink()
    page.write_text(f"{content}\n{text}\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_bytes((ROOT / "mkdocs.yml").read_bytes())
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode == 1 and all(name in done.stderr for name in said), done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_work_in_the_repository(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == perturbify.__version__
    assert citation["preferred-citation"]["title"] in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_hooks_before_a_commit_are_local():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
