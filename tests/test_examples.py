"""What examples/ shows runs as it stands, and says what its text promises."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SAYS = {
    "own_attack": [r"^Brightness +noise off +64 +[\d.]+ \[", r"^PGD-7 "],
    "own_defence": [r"^epoch 3: .* mean θ 0\.1", r"widening, 64 test images of digits", r"alive at 19 sites"],
    "own_network": [r"^2 sites, 1,536 entries of θ", r"^clean +noise on +64", r"alive at 2 sites"],
    "own_photographs": [r"^40 images to train on, 20 to test; classes: planks, rails$", r"^(1[6-9]|20) of 20 right"],
}


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SAYS.keys()


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_as_written(name, tmp_path):
    command = [sys.executable, EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for pattern in SAYS[name]:
        assert re.search(pattern, done.stdout, re.MULTILINE), f"{pattern}\n{done.stdout}"


def test_a_users_photographs_can_be_used(tmp_path):
    example = EXAMPLES / "own_photographs.py"
    runpy.run_path(str(example), run_name="own_photographs")["make"](tmp_path / "mine")
    for part in ("train", "val"):
        (tmp_path / "mine" / part / "rails").rename(tmp_path / "mine" / part / "bars")
    command = [sys.executable, example, "mine"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "classes: bars, planks" in done.stdout


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)  # committed without
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "\n".join(str(output) for cell in cells for output in cell.outputs)
    assert "19 sites" in shown and "PGD-7" in shown and "alive at 19 sites" in shown
    assert (tmp_path / "first.safetensors").is_file()
