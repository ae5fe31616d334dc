"""The arrows of the design: nothing below knows what stands above it, and importing the library costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {
        "errors",
        "escape",
        "files",
        "fused",
        "generators",
        "normal",
        "normalize",
        "numbers",
        "perturbation",
        "ranks",
        "schema",
        "strict_json",
        "text",
    },
    {"copying", "example"},
    {"surgery"},
    {
        "spread",
        "zoo",
        "data",
        "settings",
        "recipe",
        "methods",
        "certification",
        "checkpoint",
        "attacks",
        "compiling",
    },
    {"training", "checks", "census", "export", "model_card"},
    {"reproduction"},
    {"cli", "recipes"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted((ROOT / "perturbify").rglob("*.py")) + sorted((ROOT / "cli").rglob("*.py"))


def room(path):
    relative = path.relative_to(ROOT)
    return "cli" if relative.parts[0] == "cli" else relative.parts[1].removesuffix(".py")


def imports(path):
    """Dotted names that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_arrows_point_down(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    assert here in LEVEL, f"{here} has no place in the design yet: give it one here"
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] not in ("cli", "recipes"), f"{path} imports {name}: it is perturbify.{name}"
        if parts[0] == "perturbify" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[here], f"{path} imports {name} from above"


@pytest.mark.parametrize(
    "path", [f for f in FILES if room(f) not in ("cli", "__main__")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_library_knows_no_terminal(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"click", "rich", "matplotlib"}


def test_no_file_needs_to_be_two():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long


def test_importing_the_library_loads_no_torch():
    script = "import sys, perturbify; print(sorted({'torch', 'timm', 'numpy', 'click', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import perturbify

    for name in perturbify.__all__:
        assert getattr(perturbify, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = perturbify.nonsense
