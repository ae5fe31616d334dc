"""What the site needs beside mkdocs.yml: the files outside of docs/ that pages link to, and the roles of docstrings.

The pages are read on GitHub as well, so their links are paths in the repository.
"""

import importlib
import logging
import os
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)")
_ROLE = re.compile(r":\w+:`(~?)([\w.]+)`")
_log = logging.getLogger("mkdocs.plugins.site")


def on_files(files, config):
    """Takes the pages of the repository's root in, and what any page links to outside of docs/."""
    for name in PAGES:
        _add(files, config, ROOT / name)
    for page in files.documentation_pages():
        for link in _LINK.findall(Path(page.abs_src_path).read_text(encoding="utf-8")):
            target = _target(page, link)
            if target.is_file() and target.is_relative_to(ROOT) and not target.is_relative_to(DOCS):
                _add(files, config, target)
    return files


def on_page_markdown(markdown, page, **_):
    """Turns paths in the repository into paths in the site, where the root's files and docs/ are one folder."""

    def moved(match):
        target = _target(page.file, match[1])
        if not target.exists():
            return match[1]
        base = DOCS if target.is_relative_to(DOCS) else ROOT
        return Path(os.path.relpath(target.relative_to(base), Path(page.file.src_uri).parent)).as_posix()

    return _LINK.sub(moved, markdown)


def _target(file, link):
    return Path(os.path.normpath(Path(file.abs_src_path).parent / link))


def _add(files, config, path):
    uri = path.relative_to(ROOT).as_posix()
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(path)))


class Roles(griffe.Extension):
    """Links the roles of docstrings (``:func:`perturbify.wrap` ``); one that names nothing is an error."""

    def on_module(self, *, mod, **_):
        """Asks a module that loads its names on first use which they are."""
        if "__getattr__" in mod.members:
            mod.exports = list(importlib.import_module(mod.path).__all__)

    def on_object(self, *, obj, **_):
        """Rewrites an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda m: _linked(obj, m[2], short=bool(m[1])), obj.docstring.value)


def _linked(obj, name, *, short):
    first, dot, rest = name.partition(".")
    try:
        path = name if first == "perturbify" else obj.resolve(first) + dot + rest
        path = obj.modules_collection[path].canonical_path
    except (griffe.NameResolutionError, griffe.AliasResolutionError, KeyError):
        _log.warning("The docstring of %s refers to %s, which is not there.", obj.path, name)
        return f"`{name}`"
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
