"""The fuzzer of ``benchmarks.fuzz``: it finds nothing here, and it would find something."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fuzz import judge, mutations
from perturbify.checkpoint import container

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    checkpoints, _ = judge.honest_files(tmp_path_factory.mktemp("honest"))
    return checkpoints[0]


def take(honest, path, numbers):
    found = []
    for number in numbers:
        sealed = mutations.change_file(honest.path, honest.key, path, random.Random(number))
        found.append(judge.outcome(lambda sealed=sealed: judge.judge_checkpoint(honest, path, sealed))[0])
    return set(found)


def test_changed_checkpoints_are_refused_or_load_correctly(honest, tmp_path):
    found = take(honest, tmp_path / "changed.safetensors", range(60))
    assert found <= {*judge.GOOD} and "refused" in found


def test_a_reader_without_seals_would_be_caught(honest, tmp_path, monkeypatch):
    contents = container.read(honest.path)
    monkeypatch.setattr(container, "seal", lambda metadata, tensors: "sha256:of nothing")
    container.write(tmp_path / "unsealed.safetensors", contents.tensors, contents.metadata)
    trusting = judge.Honest.of(tmp_path / "unsealed.safetensors")
    found = take(trusting, tmp_path / "changed.safetensors", range(60))
    assert "accepted with a change" in found


@pytest.mark.slow
def test_three_thousand_files(tmp_path):
    output = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.fuzz", "--files", "3000", "--seed", "1", "-o", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    assert (found["files"], found["wrong"]) == (3000, 0)
