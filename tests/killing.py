"""A training run that is killed with SIGKILL, and whether what came of it is what comes of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time

import torch
from safetensors.torch import load_file

import perturbify
from perturbify.training import state

LONG = (
    *("finetune", "--recipe", "smoke", "--no-check", "-q"),
    *("--set", "train.epochs=3", "--set", "train.batch_size=20", "--set", "train.w_steps=2"),
)


def position(path):
    """Epoch and step that a saved state goes on with; None while there is none."""
    try:
        saved = state.read(path).position
    except perturbify.PerturbifyError:
        return None
    return saved.epoch, saved.step


def kill(arguments, run_dir, *, when, delay=0.0, writing=False):
    """Starts a command and kills it a moment after its saved state has come so far; says where that left the run.

    With ``writing`` the moment is one in which a file is being written.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 240
        while (at := position(run_dir / "state.safetensors")) is None or at < when:
            assert process.poll() in (None, 0), "it failed"
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(delay)
        while writing and not list(run_dir.glob(".*.tmp")):
            assert process.poll() is None and time.monotonic() < until
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return position(run_dir / "state.safetensors")


def assert_same_run(one, other):
    for file in ("model.safetensors", "state.safetensors"):
        ours, theirs = load_file(one / file), load_file(other / file)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    assert [m["epoch"] for m in lines[0]] == [0, 1, 2]
    for ours, theirs in zip(*lines, strict=True):
        for timing in ("seconds", "images_per_second"):
            del ours[timing], theirs[timing]
        assert ours == theirs
