"""docs/new-defence.md keeps its word: its files are installed, and its commands run, one after the other."""

import csv
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perturbify.cli.main import cli, run
from perturbify.methods import registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "new-defence.md").read_text(encoding="utf-8")
SMALL = ("--model", "factories:small", "--set", "data.train_images=50", "--set", "check.images=4")


@pytest.fixture
def installed(folder, monkeypatch):
    """The page's package, installed by the page's command into a folder of the test's own."""
    (copy,) = [line.split() for line in lines() if line.startswith("cp ")]
    shutil.copy(ROOT / copy[1], copy[2])
    name, text = re.search(r"```toml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL).groups()
    Path(name).write_text(text, encoding="utf-8")
    site = folder / "site"
    for key, value in {"TARGET": site, "NO_INDEX": 1, "NO_BUILD_ISOLATION": 0, "NO_DEPS": 1}.items():
        monkeypatch.setenv(f"PIP_{key}", str(value))  # 0: pip reads it as the value of build isolation
    (install,) = [line for line in lines() if line.startswith("pip ")]
    subprocess.run([sys.executable, "-m", *shlex.split(install)], check=True, capture_output=True)
    Path("widening.py").unlink()
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield
    registry._METHODS.pop("widening", None)
    sys.modules.pop("widening", None)


def lines():
    return [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_every_command_runs(installed, folder, capsys):
    commands = [shlex.split(line) for line in lines() if line.startswith("perturbify ")]
    assert [words[1] for words in commands] == ["finetune", "finetune", "compare", "compare", "check"]
    outputs = []
    for words in commands:
        target = words.pop() if ">" in words else None
        words = words[1:-1] if target else words[1:]
        words += SMALL if words[0] == "finetune" else ("--trust-factory",)
        assert run(words) in (0, 4), capsys.readouterr().err  # so few images establish nothing
        outputs.append(capsys.readouterr().out)
        if target:
            Path(target).write_text(outputs[-1], encoding="utf-8", newline="")
    assert "over 3 training runs" in outputs[1] and Path("runs/widening/seed-2/model.safetensors").is_file()
    table = Path("table.tex").read_text(encoding="utf-8")
    assert r"\toprule" in table and "(seeds 0, 1, 2)" in table and re.search(r"^ *widening & \$", table, re.M)
    with Path("table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["group"], row["seed"]) for row in rows} == {(g, s) for g in ("vanilla", "widening") for s in "012"}
    assert {row["method"] for row in rows if row["group"] == "widening"} == {"widening"}
    assert "seed-0" in outputs[-1] and "vanilla" in PAGE


def test_documented_options_exist():
    named = set(re.findall(r"`(?:[a-z=.]+ )?(--[a-z-]+)", PAGE))
    assert named >= {"--seeds", "--images", "--preset"}
    known = {name for command in ("finetune", "compare", "check") for name in options(command)}
    assert named <= known


def options(command):
    return [name for parameter in cli.get_command(None, command).params for name in parameter.opts]
