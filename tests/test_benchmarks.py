"""What is run on a machine that is lent for minutes: it has to work there at the first call."""

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from perturbify.checks import Report
from perturbify.text import duration
from perturbify.training import state

ROOT = Path(__file__).parents[1]
SMALL = ("train_images=128", "epochs=2", "batch_size=32", "warmup_epochs=1")
NO_TIME = 0.0001


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.gpu")


@pytest.fixture
def train(tmp_path):
    """A slice of so many minutes, as a command of its own; what it says."""

    def run(minutes):
        settings = [f"--set={'data' if name.startswith('train_images') else 'train'}.{name}" for name in SMALL]
        how = ("--data=digits", "--device=cpu", "--preset=quick", "--images=4", f"--runs={tmp_path}", *settings)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", f"--train={minutes}", *how],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_training_resumes_where_a_slice_ended(train, tmp_path):
    said = train(NO_TIME)
    assert "learn2perturb: in training, 0 of 2 epochs and " in said
    assert "vanilla: not begun" in said
    position = state.read(tmp_path / "learn2perturb" / "state.safetensors").position
    assert (0, 0) < (position.epoch, position.step) < (1, 0)
    assert not (tmp_path / "vanilla").exists()

    said = train(10)
    assert "learn2perturb: epoch 1 of 2" in said
    (output,) = tmp_path.glob("*-train.json")
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["machine"]["device"] and found["versions"]["timm"] and found["gpu"] is None
    assert found["data"] == {"name": "digits", "training images": 128, "test images": 355}
    assert len(found["slices"]) == 2
    for method in ("learn2perturb", "vanilla"):
        run = found["runs"][method]
        assert f'method = "{method}"' in run["recipe"]
        assert (run["last epoch"]["epoch"], run["last epoch"]["images"]) == (1, 128)
        assert math.isfinite(run["images a second"])
        report = Report.read(tmp_path / method / "report.json")
        assert (report.name, report.n, report.epsilon) == (method, 4, 8 / 255)
        assert report.deterministic == (method == "vanilla")
        assert f"{100 * report.clean.accuracy:.1f} [" in said

    # Interrupted in the last check: what is recorded is not done again.
    (tmp_path / "vanilla" / "report.html").unlink()
    assert "vanilla: trained" in train(NO_TIME)
    records = tmp_path / "vanilla" / "records-0.jsonl"
    lines = records.read_text(encoding="utf-8").splitlines(keepends=True)
    records.write_text("".join(lines[:-2]), encoding="utf-8")
    said = train(10)
    assert "vanilla: check, 2 batches" in said
    assert json.loads(output.read_text(encoding="utf-8"))["runs"]["learn2perturb"] == found["runs"]["learn2perturb"]


BARE = """
import importlib.metadata, runpy, sys

sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
there = importlib.metadata.version


def version(package):
    if package == "perturbify":
        raise importlib.metadata.PackageNotFoundError(package)
    return there(package)


importlib.metadata.version = version
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_it_runs_from_a_bare_copy_without_installing(tmp_path):
    for room in ("benchmarks", "cli", "perturbify", "recipes"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("results", "__pycache__", "*.so"))

    def run(*how):
        done = subprocess.run(
            [sys.executable, "-c", BARE, "--device", "cpu", *how],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("gpu.json", "--minutes", "0.001")  # what has begun by then
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["parity"]["cifar_resnet20"] == {"sites": 19, "bf16_finite": True}
    assert found["failed"] == [] and found["versions"]["perturbify"] is None
    changes = [f"--set={key}" for key in ("data.train_images=64", "train.epochs=2", "train.warmup_epochs=1")]
    said = run("--train", "5", "--data", "digits", "--preset", "quick", "--images", "4", "--runs", "runs", *changes)
    assert "learn2perturb: epoch 2 of 2" in said and "written: " in said


def test_a_failed_part_does_not_stop_the_others(gpu, monkeypatch, tmp_path, capsys):
    def broken(_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "parts", lambda _: {"broken": broken, "sound": lambda device: {"on": device}})
    output = tmp_path / "gpu.json"
    assert not gpu.measure(output, torch.device("cpu"), time.monotonic(), 1)
    found = json.loads(output.read_text(encoding="utf-8"))
    assert "no such kernel" in found["broken"]["error"]
    assert (found["failed"], found["sound"]) == (["broken"], {"on": "cpu"})


def test_no_part_begins_once_the_time_is_up(gpu, monkeypatch, tmp_path, capsys):
    clock = iter([0, 59, 60])
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(gpu, "parts", lambda _: dict.fromkeys("abc", lambda _: {}))
    monkeypatch.setattr(gpu, "surroundings", lambda _: {})
    output = tmp_path / "gpu.json"
    assert gpu.measure(output, torch.device("cpu"), 0, 1)
    assert json.loads(output.read_text(encoding="utf-8")) == {
        "failed": [],
        "not begun for want of time": ["c"],
        "a": {},
        "b": {},
    }


def test_every_part_is_listed(gpu):
    steps = [f"train_step, {case.network}, batch {case.batch}" for case in gpu.train_step.CUDA]
    assert list(gpu.parts("cuda")) == ["parity", "values of the noise", "noise", *steps, "main_job"]
    assert steps[:2] == ["train_step, cifar_resnet20, batch 128", "train_step, cifar_resnet20, batch 1024"]


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_every_benchmark_still_imports(file, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    assert importlib.import_module(f"benchmarks.{file.stem}").__doc__


def test_the_verdicts_page_matches_its_results():
    from benchmarks.verdicts.__main__ import summary, to_markdown

    results = json.loads((ROOT / "benchmarks/results/2026-11-27-verdicts.json").read_text(encoding="utf-8"))
    assert results["summary"] == summary(results["classifiers"])
    assert to_markdown(results) in (ROOT / "docs/verdicts.md").read_text(encoding="utf-8")
    assert results["summary"]["masked established"] == results["summary"]["honest failed"] == []


def test_the_guide_quotes_the_time_of_quick():
    quick = json.loads((ROOT / "benchmarks/results/2026-11-27-quick.json").read_text(encoding="utf-8"))["quick"]
    assert f"`quick` took {duration(quick['seconds'])} for" in (ROOT / "docs/guide.md").read_text(encoding="utf-8")
