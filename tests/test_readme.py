"""The README and the pages beside it keep their word: commands run, and figures are those of the committed reports."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from perturbify.checks import Report
from perturbify.text import percent

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REAL_IMAGES = (ROOT / "docs" / "real-images.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def shell_blocks(page=README):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    return [block for language, block in blocks if language in ("", "sh")]


def run(command, cwd):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, shell=True, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_main_example_runs_as_written(tmp_path):
    """Everything of the first command line but the installation, which CI has done."""
    steps = shell_blocks()[0].replace(".venv/bin/", "").strip().split(" && ")
    assert [s.split()[0] for s in steps] == ["python3", "pip", "perturbify", "perturbify", "perturbify"]
    outputs = []
    for step in steps[2:]:
        done = run(step, tmp_path)
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    assert "19 sites" in outputs[0]
    assert "alive at 19 sites" in outputs[2]
    accuracy = float(re.search(r"^clean\s+noise on\s+\d+\s+([\d.]+) \[", outputs[2], flags=re.MULTILINE)[1])
    assert accuracy > 90


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 90 and README.count("```python") == 1


def test_the_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "resnet18.noisy.safetensors").is_file()


@pytest.mark.parametrize("page", [README, GUIDE, REAL_IMAGES], ids=["README", "guide", "real images"])
def test_the_other_commands_are_valid(page):
    """Every command line that the page shows parses: its options exist."""
    from perturbify.cli.main import cli

    for block in shell_blocks(page):
        for line in block.replace(".venv/bin/", "").replace(" && ", "\n").splitlines():
            words = line.partition("#")[0].split()
            if words[:1] != ["perturbify"]:
                continue
            command = cli.get_command(None, words[1])
            command.make_context(words[1], words[2:])


def test_the_guides_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = re.search(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)[1]
    exec(compile(first, "guide.md", "exec"), {})


def test_the_guides_settings_state_the_right_defaults():
    """Of turns, θ's schedule, attack and speed; of two in a row, both."""
    from perturbify import settings

    tables = {"train": settings.TrainSettings, "attack": settings.AttackSettings, "speed": settings.SpeedSettings}
    rows = re.findall(r"^\| (`(?:train|attack|speed)\..*?) \| (.*?) \|", GUIDE, flags=re.MULTILINE)
    said = {
        key: value for keys, values in rows for key, value in zip(keys.split(", "), values.split(", "), strict=True)
    }
    assert {"`train.joint`", "`train.theta_schedule`", "`train.tau_from`", "`attack.labels`"} <= said.keys()
    for key, value in said.items():
        table, name = key.strip("`").split(".")
        default = {f.name: f.default for f in fields(tables[table])}[name]
        words = {None: ("none", "the method's")}.get(default, (json.dumps(default),))
        assert value.strip("`") in words, key


COLUMNS = {"learn2perturb": 2, "pgd": 3, "resnet4b_adv": 4}
ROWS = {
    "clean": "clean",
    "FGSM": "fgsm",
    "PGD-7": "pgd",
    "margin attack, 40 gradients": "margin",
    "margin attack, 160 gradients, where anything stands": "longer",
    "PGD-7 transfer from its weights without noise": "transfer-twin",
    "Square, by queries, where anything stands": "square",
    "margin attack on its twin without noise, scored there": "twin-margin",
}
"""What a row of the table of docs/real-images.md is called, by the id of its result."""


def table():
    rows = [[c.strip() for c in line.split("|")] for line in REAL_IMAGES.splitlines() if line.startswith("| ")]
    return {row[1]: row for row in rows if len(row) == 6}


@pytest.mark.parametrize("network", COLUMNS)
def test_the_figures_match_the_reports(network):
    report = Report.read(ROOT / "docs" / "reports" / f"{network}.json")
    for label, id in ROWS.items():
        result = report.result(id)
        expected = "–" if result is None else percent(result.accuracy, result.interval)
        assert table()[label][COLUMNS[network]] == expected, label
    worst = report.headline.worst
    assert table()["**worst case of every image**"][COLUMNS[network]] == f"**{percent(worst.value, worst.interval)}**"
    assert report.verdict in table()["verdict"][COLUMNS[network]]
    assert f"{report.n:,} original test images" in " ".join(REAL_IMAGES.split())


def test_the_text_matches_the_report():
    head = Report.read(ROOT / "docs" / "reports" / "learn2perturb.json").headline
    said = " ".join(REAL_IMAGES.split())
    (low, high), adds = head.ahead.interval, percent(head.noise_adds.value, head.noise_adds.interval)
    assert f"{100 * head.ahead.value:.1f} points [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−") in said
    assert f"adds {adds} points" in said
