"""mypy over the library as it is installed: ``cli/`` and ``recipes/`` inside ``perturbify``."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_mypy_passes(tmp_path):
    package = tmp_path / "perturbify"
    package.mkdir()
    for item in (ROOT / "perturbify").iterdir():
        if item.name != "__pycache__":
            (package / item.name).symlink_to(item)
    for name in ("cli", "recipes"):
        (package / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "-p", "perturbify"],
        cwd=tmp_path,
        env={"MYPY_CACHE_DIR": str(ROOT / ".mypy_cache"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
