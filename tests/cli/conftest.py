"""The command line, called in this process (fast) or as a command of its own (real), and files to give it."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perturbify.cli.main import run

FACTORIES = """
import torch
from torch import nn


def small(num_classes=10):
    print("a factory that talks")
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, num_classes),
    )


def no_convolutions():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))


def no_classifier():
    return nn.Conv2d(3, 4, 3)


def wrapped():
    import perturbify

    return perturbify.wrap(small(), example_input=torch.rand(2, 3, 8, 8))
"""


def call(*arguments):
    """Runs a command in this process; its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run([str(a) for a in arguments])
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a module of factories in it; one thread, as commands in a subprocess have."""
    (tmp_path / "factories.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("factories", None)
    yield tmp_path
    sys.modules.pop("factories", None)


@pytest.fixture
def called(folder):
    """Runs a command in the working directory ``folder``; its exit status, stdout and stderr."""
    return call


@pytest.fixture
def cli(folder):
    """Runs a command that is to succeed, in the working directory ``folder``; gives its stdout, as JSON with --json.

    A check of a few images succeeds with status 4: they establish nothing.
    """

    def cli(*arguments, status=0):
        done = call(*arguments)
        assert done.status == status, done.err
        return json.loads(done.out) if "--json" in arguments else done.out

    return cli


@pytest.fixture
def refused(folder):
    """Runs a command that is to fail; gives its error line, and its hint behind it."""

    def refused(*arguments, status=1):
        before = contents(folder)
        done = call(*arguments)
        assert done.status == status, done.err
        assert done.out == ""
        assert "Traceback" not in done.err
        assert "mistake in perturbify" not in done.err
        assert contents(folder) == before  # nothing lost, nothing begun
        lines = done.err.splitlines()
        errors = [i for i, line in enumerate(lines) if line.startswith("Error: ")]
        assert len(errors) == 1, done.err
        return " ".join(lines[errors[0] :])

    return refused


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
        if "__pycache__" not in p.parts
    }


@pytest.fixture(scope="session")
def command():
    """Runs ``perturbify`` as a process of its own."""

    def command(*arguments, cwd=None, module=False, **environment):
        program = (
            [sys.executable, "-m", "perturbify"] if module else [str(Path(sys.executable).with_name("perturbify"))]
        )
        return subprocess.run(
            [*program, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return command


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished and checked run of the recipe ``smoke``, and what its command printed. To be read only."""
    path = tmp_path_factory.mktemp("trained") / "run"
    done = call("finetune", "--recipe", "smoke", "-o", path, "--json")
    assert done.status == 4, done.err  # after two epochs there is nothing to establish
    return SimpleNamespace(path=path, model=path / "model.safetensors", result=json.loads(done.out), err=done.err)


@pytest.fixture
def npz(folder):
    """Writes a .npz dataset of random images with these labels."""

    def npz(name, train, test, size=(8, 8)):
        generator = np.random.default_rng(0)
        arrays = {}
        for part, labels in (("train", train), ("test", test)):
            arrays[f"x_{part}"] = generator.integers(0, 256, (len(labels), *size, 3), dtype=np.uint8)
            arrays[f"y_{part}"] = np.array(labels)
        np.savez(folder / name, **arrays)
        return name

    return npz


@pytest.fixture
def one_thread():
    """Results that must be those of a subprocess with one thread, bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
