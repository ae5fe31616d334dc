"""The README keeps its word: its commands run, and its figures are those of the committed reports."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from perturbify.text import percent

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_blocks():
    return re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)


def run(command, cwd):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, shell=True, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_main_job_runs_as_written(tmp_path):
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


def test_the_three_lines_of_python_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "resnet18.noisy.safetensors").is_file()


def test_the_other_commands_are_understood(tmp_path):
    """Every command line that the README shows parses: its options exist."""
    from perturbify.cli.main import cli

    for block in shell_blocks():
        for line in block.replace(".venv/bin/", "").replace(" && ", "\n").splitlines():
            words = line.partition("#")[0].split()
            if words[:1] != ["perturbify"]:
                continue
            command = cli.get_command(None, words[1])
            command.make_context(words[1], words[2:])


def test_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    first = re.search(r"```python\n(.*?)```", guide, flags=re.DOTALL)[1]
    exec(compile(first, "guide.md", "exec"), {})


COLUMNS = {"learn2perturb": 3, "pgd": 4, "resnet4b_adv": 5}
ELSEWHERE = {  # what a label says of where an attack was crafted
    "PGD-7 on frozen noise": ("PGD-7", "frozen noise"),
    "PGD-7 transfer, its weights without noise": ("PGD-7 transfer", "noise off"),
    "PGD-7 transfer, the PGD-trained network": ("PGD-7 transfer", "pgd.safetensors"),
}


@pytest.mark.parametrize("network", COLUMNS)
def test_the_figures_are_those_of_the_reports(network):
    report = json.loads((ROOT / "docs" / "reports" / f"{network}.json").read_text(encoding="utf-8"))
    noise = "off" if report["deterministic"] else "on"
    rows = {
        (r["attack"], r["crafted_on"]): (str(r["n"]), percent(r["accuracy"], r["interval"]))
        for r in report["rows"]
        if r["network"] == "itself" and r["noise"] == noise
    }
    table = [[c.strip() for c in line.split("|")] for line in README.splitlines() if line.startswith("| ")]
    figures = [cells for cells in table if len(cells) == 7 and cells[2].isdigit()]
    shown = 0
    for cells in figures:
        attack, crafted_on = ELSEWHERE.get(cells[1], (cells[1], f"noise {noise}"))
        expected = rows.get((attack, crafted_on))
        assert cells[COLUMNS[network]] == ("–" if expected is None else expected[1]), cells[1]
        assert expected is None or cells[2] == expected[0], cells[1]
        shown += expected is not None
    assert shown >= 14
    assert f"{report['n']:,} original test images" in " ".join(README.split())


def test_the_text_says_what_the_report_says():
    report = json.loads((ROOT / "docs" / "reports" / "learn2perturb.json").read_text(encoding="utf-8"))
    criteria = {c["name"]: c for c in report["criteria"]}
    gain = criteria["it is more robust than pgd.safetensors"]
    assert gain["verdict"] == "undecided" and '"undecided"' in README
    first, second = ([-100 * v for v in (e["estimate"], e["interval"][1], e["interval"][0])] for e in gain["evidence"])
    assert "{:.1f} points [{:.1f}, {:.1f}]".format(*first) in README
    assert "{:.1f} [{:.1f}, {:.1f}]".format(*second).replace("-", "−") in README
