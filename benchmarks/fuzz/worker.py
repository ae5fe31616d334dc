"""A process that makes and judges changed files."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import perturbify
from benchmarks.fuzz import mutations
from benchmarks.fuzz.judge import GOOD, Honest, judge_checkpoint, judge_recipe, judge_state, outcome
from perturbify import recipe

SECONDS, MEGABYTES = 2.0, 200.0
"""Maximum cost of a file above the honest one; CPU seconds, which do not depend on other processes."""


class Fuzzer:
    """Makes and judges changed files.

    Args:
        folder: Working folder.
        checkpoints: Honest checkpoints.
        states: Honest states.
        seed: Seed of all changes.
    """

    def __init__(self, folder: Path, checkpoints: list[Honest], states: list[Honest], seed: int) -> None:
        torch.set_num_threads(1)
        self.folder, self.checkpoints, self.states, self.seed = folder, checkpoints, states, seed
        self.recipes = [recipe.text(name) for name in recipe.names()]
        (folder / "canary.py").write_text("factory = None\n")
        sys.path.insert(0, str(folder))
        self.usual = max(self._seconds(c) for c in checkpoints)
        # Peak memory for the largest honest file, above the process's own.
        self.memory = max(self._megabytes(c) for c in checkpoints)

    def take(self, number: int) -> dict[str, Any]:
        """Makes one file, judges it, and returns the outcome."""
        rng = random.Random(f"{self.seed}/{number}")
        kind = rng.choices(["checkpoint", "state", "recipe"], [70, 10, 20])[0]
        path = self.folder / f"{os.getpid()}.{'toml' if kind == 'recipe' else 'safetensors'}"
        judge = self._made(kind, path, rng)
        before = _mark()
        started = time.process_time()
        found, more = outcome(judge)
        took, grown = time.process_time() - started, _memory("VmHWM") - before - self.memory
        if found in GOOD and took > self.usual + SECONDS:
            found, more = "too slow", f"{took:.1f} s"
        if grown > MEGABYTES:
            found, more = "too much memory", f"{grown:.0f} MB, {found}"
        return {"number": number, "kind": kind, "found": found, "more": more, "seconds": took, "megabytes": grown}

    def _made(self, kind: str, path: Path, rng: random.Random) -> Callable[[], tuple[str, str]]:
        """Writes a changed file, untimed, and returns its judge."""
        if kind == "recipe":
            text = mutations.change_recipe(rng.choice(self.recipes), rng)
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
            return partial(judge_recipe, path)
        honest = rng.choice(self.checkpoints if kind == "checkpoint" else self.states)
        sealed = mutations.change_file(honest.path, honest.key, path, rng)
        return partial(judge_checkpoint if kind == "checkpoint" else judge_state, honest, path, sealed)

    def _seconds(self, honest: Honest) -> float:
        """Seconds to load the honest file, the second time."""
        perturbify.load(honest.path)
        started = time.process_time()
        perturbify.load(honest.path)
        return time.process_time() - started

    def _megabytes(self, honest: Honest) -> float:
        before = _mark()
        perturbify.load(honest.path)
        return _memory("VmHWM") - before


_fuzzer: Fuzzer


def start(*given: Any) -> None:
    """Initialises a process; the arguments are those of :class:`Fuzzer`."""
    global _fuzzer
    _fuzzer = Fuzzer(*given)


def take(number: int) -> dict[str, Any]:
    """One file of this process; see :meth:`Fuzzer.take`."""
    return _fuzzer.take(number)


def _memory(what: str) -> float:
    """Memory of this process in MB: now (``VmRSS``), or at its peak since the last mark (``VmHWM``)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{what}:")[2].split()[0]) / 1024


def _mark() -> float:
    """Resets the peak; returns the current memory in MB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")
