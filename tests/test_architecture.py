"""The arrows of the design, as docs/architecture.md draws them: nothing knows what stands above it."""

import ast
import re
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from perturbify import methods

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STAIR = [
    {"escape", "fused", "generators", "normal", "normalize", "numbers", "ranks", "strict_json"},
    {"errors", "text"},
    {"arguments", "channels", "display"},
    {"copying", "data", "example", "files", "perturbation", "prediction", "schema", "zoo"},
    {"attacks", "surgery"},
    {"census", "certification", "checkpoint", "compiling", "settings", "spread"},
    {"methods"},
    {"model_card", "recipe"},  # a recipe is read above the methods, whose noise is its default
    {"checks"},
    {"training"},
    {"reproduction"},
    {"cli"},
]
"""The rooms from the bottom up. One knows those below it, and none that stands beside it."""

STEP = {room: step for step, rooms in enumerate(STAIR) for room in rooms}
FILES = sorted((ROOT / "perturbify").rglob("*.py")) + sorted((ROOT / "cli").rglob("*.py"))


def room(path):
    relative = path.relative_to(ROOT)
    return "cli" if relative.parts[0] == "cli" else relative.parts[1].removesuffix(".py")


def imports(path, *, typing=True):
    """Dotted names that a file imports, wherever in the file it does so; perhaps without what is for types alone."""
    nodes = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if typing or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            nodes += ast.iter_child_nodes(node)


def dotted(path):
    """The name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("perturbify", *parts) if parts[0] == "cli" else parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down_the_layers(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    assert here in STEP, f"{here} has no place in the design yet: give it one here"
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] not in ("cli", "recipes"), f"{path} imports {name}: it is perturbify.{name}"
        if parts[0] == "perturbify" and len(parts) > 1 and parts[1] in STEP and parts[1] != here:
            assert STEP[parts[1]] < STEP[here], f"{path} imports {name}, which is not below it"


def test_every_package_has_a_layer():
    assert STEP.keys() == {room(path) for path in FILES} - {"__init__", "__main__"}


def test_there_are_no_circular_imports():
    """Nor between the files of a room, by imports inside of functions; what is for types alone never runs."""
    names = {dotted(path): path for path in FILES}
    graph = {
        here: {name for name in imports(path, typing=False) if name in names} - {here, *parents(here)}
        for here, path in names.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def parents(name):
    """The packages that a file lies in."""
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts))}


def quoted(path):
    """Names of methods that a file has as text, whole or in quotation marks; prose may speak of them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    prose = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, holders) and ast.get_docstring(n) is not None}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            for name in set(methods.names()) - {"none"}:  # an ordinary word
                if re.fullmatch(name, node.value) or re.search(f"[\"'`]{name}[\"'`]", node.value):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {name}"


def test_method_names_appear_only_among_the_methods():
    """The paper's tables are data about the paper, whose columns are methods."""
    data = ROOT / "perturbify" / "reproduction" / "paper.py"
    assert list(quoted(data))
    assert [found for path in FILES if room(path) != "methods" and path != data for found in quoted(path)] == []


@pytest.mark.parametrize(
    "path", [f for f in FILES if room(f) not in ("cli", "__main__")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_library_never_imports_terminal_packages(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"click", "rich", "tqdm", "matplotlib"}


def test_no_file_is_too_long():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long


def test_test_names_have_at_most_eight_words():
    names = [n for f in (ROOT / "tests").rglob("*.py") for n in re.findall(r"^ *def test_(\w+)", f.read_text(), re.M)]
    assert [name for name in names if name.count("_") > 7] == []


def test_importing_the_library_does_not_import_torch():
    script = "import sys, perturbify; print(sorted({'torch', 'timm', 'numpy', 'click', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_are_attributes_of_the_package():
    script = "import perturbify as p; print(p.data.load, p.recipe.load, p.zoo.create, p.methods.get, p.checks.check)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_public_name_exists():
    import perturbify

    for name in perturbify.__all__:
        assert getattr(perturbify, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = perturbify.nonsense


def test_the_drawing_shows_the_layers():
    drawn = ElementTree.parse(ROOT / "docs" / "architecture.svg")
    steps = drawn.iterfind(".//{*}g[@class='step']")
    rooms = [
        {name for text in step.iterfind("{*}text[@class='rooms']") for name in text.text.split()} for step in steps
    ]
    assert rooms == STAIR[::-1]
    assert "](architecture.svg)" in PAGE


def test_the_script_reproduces_the_drawing(tmp_path):
    shutil.copy(ROOT / "docs" / "drawing.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "drawing.py"], check=True)
    assert (tmp_path / "architecture.svg").read_bytes() == (ROOT / "docs" / "architecture.svg").read_bytes()


def test_paths_named_on_the_page_exist():
    paths = re.findall(r"`((?:[\w-]+/)+[\w.-]*|\w+\.toml)`", PAGE)
    pages = re.findall(r"\]\(([\w./-]+)", PAGE)
    assert len(paths) > 20 and len(pages) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [page for page in pages if not (ROOT / "docs" / page).is_file()] == []
    held = re.findall(r"`([\w-]+)`(?: and `(\w+)`)? (?:in|to `\w+` in) `([\w/.]+)`", PAGE)
    assert len(held) > 8
    for *names, path in held:
        for name in filter(None, names):
            assert name in (ROOT / path).read_text(encoding="utf-8"), f"{name} in {path}"
