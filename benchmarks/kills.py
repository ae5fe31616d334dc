"""Is a run that was killed and resumed identical to an uninterrupted one, bit for bit?

    python -m benchmarks.kills --runs 20 --writing 5 --seed 0 --output FILE.json

A small run on the digits, on one CPU thread, which saves its state after every step, is trained to its end. Then equal
runs are started and killed with SIGKILL after a random number of saves: some as soon as a file is being written, most a
random time later, whatever they are doing. Each is resumed, with --resume if a state was saved and otherwise with the
same command, and its weights, θ, momenta, buffers and metrics (except times) are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from perturbify.checks.run import machine
from perturbify.errors import PerturbifyError
from perturbify.files import identity, write_text
from perturbify.training import state
from perturbify.training.folder import RunFolder

RECIPE = ("--recipe", "smoke", "--set", "train.epochs=3", "--set", "train.batch_size=20", "--set", "train.w_steps=2")
TIMES = ("seconds", "images_per_second")
PATIENCE = 300
SAVES = 31
"""Saves of a whole run: one before its first step, and one after each of thirty."""

PAUSE, START = 0.3, 20
"""Maximum seconds between the last save and the kill; and the factor on it if there are no saves."""


def command(*arguments: str | Path) -> list[str]:
    """A quiet training command without the check."""
    return [sys.executable, "-m", "perturbify", "finetune", *map(str, arguments), "--no-check", "-q"]


def start(folder: RunFolder) -> list[str]:
    """The command for a run that saves after every step."""
    return command(*RECIPE, "--set", "train.save_minutes=1e-9", "-o", folder.path)


def finish(arguments: Sequence[str]) -> float:
    """Runs a command to its end and returns the seconds it took.

    Raises:
        RuntimeError: It fails.
    """
    began = time.perf_counter()
    done = subprocess.run(arguments, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: status {done.returncode}, {done.stderr}")
    return time.perf_counter() - began


def killed(arguments: Sequence[str], ready: Callable[[], bool]) -> float | None:
    """Starts a command and kills it as soon as ``ready`` is true.

    Returns:
        Seconds after its start; None if it had already ended.
    """
    began = time.perf_counter()
    process = subprocess.Popen(arguments, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not ready() and process.poll() is None and time.perf_counter() - began < PATIENCE:
            time.sleep(0.0002)
        after = time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    return after if process.returncode < 0 else None


def workplaces(folder: RunFolder) -> list[str]:
    """Names of the files being written in a folder, or that were when the writer was killed."""
    return sorted(p.name[1:].rsplit(".", 2)[0] for p in folder.path.glob(".*.tmp"))


def standing(folder: RunFolder) -> dict[str, int] | None:
    """The position from which a run's last state resumes; None if there is none."""
    try:
        at = state.read_last(folder).position
    except PerturbifyError:
        return None
    return {"epoch": at.epoch, "step": at.step}


def differing(one: RunFolder, other: RunFolder) -> list[str]:
    """Differences between two finished runs: tensors of the models and states, and metrics."""
    found = []
    for name in ("model.safetensors", "state.safetensors"):
        ours, theirs = load_file(one.path / name), load_file(other.path / name)
        found += [f"{name}: {key}" for key in ours.keys() ^ theirs.keys()]
        found += [f"{name}: {key}" for key in ours.keys() & theirs.keys() if not _equal(ours[key], theirs[key])]
    epochs = [[{k: v for k, v in e.items() if k not in TIMES} for e in f.read_metrics()] for f in (one, other)]
    return found if epochs[0] == epochs[1] else [*found, "metrics.jsonl"]


def one_kill(whole: RunFolder, folder: RunFolder, chance: random.Random, *, writing: bool) -> Any:
    """Kills a run once and resumes it to its end.

    Args:
        whole: The run that was never killed.
        folder: Folder of the other one.
        chance: Draws the moment.
        writing: Whether to kill it while a file is being written.

    Returns:
        What happened, as JSON values; None if the run ended before the kill, or nothing was being written after all.
    """
    saves, pause = chance.randint(int(writing), SAVES - 2), chance.uniform(0, PAUSE)
    seen, before, due = 0, identity(folder.state), None

    def ready() -> bool:
        nonlocal seen, before, due
        now = identity(folder.state)
        if now != before:
            seen, before = seen + 1, now
        if seen < saves:
            return False
        if writing:
            return chance.random() < 0.05 and bool(workplaces(folder))  # so that any of the files can be hit
        due = due or time.perf_counter() + (pause if saves else START * pause)
        return time.perf_counter() >= due

    at = killed(start(folder), ready)
    left = workplaces(folder)
    if at is None or (writing and not left):
        return None
    stood = standing(folder)
    finish(start(folder) if stood is None else command("--resume", folder.path))
    other = differing(whole, folder)
    return {
        "moment": "while writing" if writing else "at random",
        "seconds": round(at, 3),
        "half written": left,
        "went on from": stood,
        "differing": other,
        "left behind": workplaces(folder),
    }


def benchmark(runs: int, writing: int, seed: int) -> dict[str, Any]:
    """Kills ``runs`` runs, ``writing`` of them while they write."""
    chance, found = random.Random(seed), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        whole = RunFolder(Path(place) / "whole")
        seconds = finish(start(whole))
        tried = 0
        while len(found) < runs:
            tried += 1
            folder = RunFolder(Path(place) / f"killed-{tried}")
            one = one_kill(whole, folder, chance, writing=len(found) < writing)
            if one is not None:
                found.append(one)
                print(one, flush=True)
    identical = sum(not one["differing"] for one in found)
    return {
        "machine": machine(torch.device("cpu")) | {"threads": 1},
        "recipe": " ".join(RECIPE),
        "seed": seed,
        "seconds of a whole run": round(seconds, 1),
        "killed": len(found),
        "while writing": sum(one["moment"] == "while writing" for one in found),
        "identical": identical,
        "runs": found,
    }


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def main() -> int:
    """Reads the command line; returns 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--writing", type=int, default=5, help="how many of them are killed while they write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # about missing and earlier states
    result = benchmark(arguments.runs, arguments.writing, arguments.seed)
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{result['identical']} of {result['killed']} identical, {result['while writing']} killed while writing")
    return 0 if result["identical"] == result["killed"] else 1


if __name__ == "__main__":
    sys.exit(main())
