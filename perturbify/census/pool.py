"""Many models, in processes of their own, from where an earlier census stopped."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from perturbify.census.examination import MEMORY_LIMIT, Row
from perturbify.errors import PerturbifyError

WORKER = ("-m", "perturbify.census.worker")
PATIENCE_SECONDS = 1800.0
MODELS_A_PROCESS = 40
"""After so many a process is replaced: what libraries cache grows."""


@dataclass(frozen=True)
class Progress:
    """Where a census stands: ``row`` is the newest, ``done`` of ``total`` models are examined."""

    row: Row
    done: int
    total: int
    seconds_left: float


def versions() -> dict[str, str]:
    """Of the packages whose models are counted, and of those that count."""
    return {package: version(package) for package in ("perturbify", "torch", "torchvision", "timm")}


def take(
    names: Iterable[str],
    *,
    workers: int = 2,
    notes: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[Row]:
    """Examines models, each in a process that may crash.

    Args:
        names: Qualified names.
        workers: Processes at a time, one thread each. Models that need more memory than a worker's share come last,
            one at a time.
        notes: A file of JSON lines, to which every row is added as it is found; models that are in it already are not
            examined again.
        progress: Called after each model.

    Returns:
        The rows, in the order of the names.

    Raises:
        PerturbifyError: The notes are of other versions of the libraries, or damaged.
    """
    names = list(dict.fromkeys(names))
    rows = {} if notes is None else {r.name: r for r in _read(notes)}
    pending = [n for n in names if n not in rows]
    total, started, large = len(pending), time.perf_counter(), list[str]()
    lock = threading.Lock()

    def note(row: Row) -> None:
        with lock:
            rows[row.name] = row
            if notes is not None:
                with notes.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row.to_dict()) + "\n")
            done = sum(n in rows for n in pending)
            pace = (time.perf_counter() - started) / done
            progress(Progress(row, done, total, pace * (total - done)))

    def work(jobs: queue.SimpleQueue[str], memory: int) -> None:
        for name, row in _examined(jobs, memory):
            if row is None:
                with lock:
                    large.append(name)
            else:
                note(row)

    _in_threads(work, pending, MEMORY_LIMIT // workers, workers)
    _in_threads(work, large, MEMORY_LIMIT, 1)
    return [rows[n] for n in names]


def _in_threads(
    work: Callable[[queue.SimpleQueue[str], int], None], names: list[str], memory: int, workers: int
) -> None:
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in list(names):
        jobs.put(name)
    threads = [threading.Thread(target=work, args=(jobs, memory), daemon=True) for _ in range(min(workers, len(names)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # so that Ctrl-C is heard


def _examined(jobs: queue.SimpleQueue[str], memory: int) -> Iterator[tuple[str, Row | None]]:
    """Rows of one worker's models, as long as there are jobs; None for a model that needs more memory."""
    while not jobs.empty():
        with _process(memory) as process:
            for _ in range(MODELS_A_PROCESS):
                try:
                    name = jobs.get_nowait()
                except queue.Empty:
                    return
                row = _ask(process, name)
                yield name, row
                if process.poll() is not None:
                    break


def _ask(process: subprocess.Popen[str], name: str) -> Row | None:
    assert process.stdin is not None
    assert process.stdout is not None
    patience = threading.Timer(PATIENCE_SECONDS, process.kill)
    patience.start()
    try:
        process.stdin.write(name + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    finally:
        patience.cancel()
    if not answer:
        return Row(name, error=f"its process ended with status {process.wait()}")
    found = json.loads(answer)
    return None if "needs" in found else Row(**found)


@contextmanager
def _process(memory: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *WORKER, str(memory)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _read(notes: Path) -> list[Row]:
    ours = versions()
    if not notes.exists():
        notes.write_text(json.dumps(ours) + "\n", encoding="utf-8")
        return []
    text = notes.read_text(encoding="utf-8")
    whole, _, cut = text.rpartition("\n")
    if cut:  # the line that was being written when the last census was killed
        notes.write_text(f"{whole}\n", encoding="utf-8")
    try:
        theirs, *found = [json.loads(line) for line in whole.splitlines()]
        rows = [Row(**row) for row in found]
    except (ValueError, TypeError) as error:
        raise PerturbifyError(f"{notes} holds no census, or a damaged one ({error}).", "Name another file.") from error
    if theirs != ours:
        changed = ", ".join(f"{k} {theirs.get(k)} there, {v} here" for k, v in ours.items() if theirs.get(k) != v)
        raise PerturbifyError(f"{notes} holds a census of other versions: {changed}.", "Name another file.")
    return rows
