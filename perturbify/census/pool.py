"""Examines many models in separate processes, resuming an earlier census."""

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

from perturbify.census import libraries
from perturbify.census.examination import MEMORY_LIMIT, Row
from perturbify.errors import PerturbifyError

WORKER = ("-m", "perturbify.census.worker")
PATIENCE_SECONDS = 1800.0
MODELS_A_PROCESS = 40
"""A process is replaced after this many models, since libraries' caches grow."""


@dataclass(frozen=True)
class Progress:
    """Progress of a census: ``row`` is the newest result, ``done`` of ``total`` models are examined."""

    row: Row
    done: int
    total: int
    seconds_left: float


def versions(names: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the packages that affect a census.

    Args:
        names: Names of the models; timm and torchvision are always included.
    """
    others = sorted({n.partition(":")[0] for n in names} & set(libraries.ROOMS))
    packages = ("perturbify", "torch", "torchvision", "timm", *map(libraries.package, others))
    return {package: version(package) for package in packages}


def take(
    names: Iterable[str],
    *,
    workers: int = 2,
    notes: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[Row]:
    """Examines models in separate processes, which may crash.

    Args:
        names: Qualified names.
        workers: Number of processes, one thread each. Models that need more memory than a worker's share come last, one
            at a time.
        notes: A JSON Lines file to which each row is appended; models already in it are not examined again.
        progress: Called after each model.

    Returns:
        The rows, in the order of the names.

    Raises:
        PerturbifyError: The notes are from other library versions, or damaged.
    """
    names = list(dict.fromkeys(names))
    rows = {} if notes is None else {r.name: r for r in _read(notes, versions(names))}
    pending = [n for n in names if n not in rows]
    total, started, large = len(pending), time.perf_counter(), list[str]()  # large: models for a second, slower round
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

    def found(name: str, row: Row | None) -> None:
        if row is None:
            large.append(name)
        else:
            note(row)

    _work_off(pending, MEMORY_LIMIT // workers, workers, found)
    _work_off(large, MEMORY_LIMIT, 1, found)
    return [rows[n] for n in names]


def _work_off(names: list[str], memory: int, workers: int, found: Callable[[str, Row | None], None]) -> None:
    """Examines models; on an interrupt, or if ``found`` fails, the processes end and no more rows are reported."""
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        jobs.put(name)
    crew = _Crew(memory)
    failures: list[Exception] = []

    def work() -> None:
        try:
            for name, row in crew.examine(jobs):
                found(name, row)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(workers, len(names)))]
    try:
        for thread in threads:
            thread.start()
        while any(t.is_alive() for t in threads) and not failures:
            time.sleep(0.05)  # not join(), so that Ctrl-C works
    finally:
        crew.stop()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


class _Crew:
    """Processes that examine models and end together."""

    def __init__(self, memory: int) -> None:
        self._command = [sys.executable, *WORKER, str(memory)]
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def examine(self, jobs: queue.SimpleQueue[str]) -> Iterator[tuple[str, Row | None]]:
        """Yields rows from successive processes until there are no more jobs; None: the model needs more memory."""
        while not jobs.empty():
            with self._process() as process:
                for _ in range(MODELS_A_PROCESS):
                    try:
                        name = jobs.get_nowait()
                    except queue.Empty:
                        return
                    row = _ask(process, name)
                    if self._stopped:
                        return
                    yield name, row
                    if process.poll() is not None:
                        break

    def stop(self) -> None:
        """Ends all processes; the models in progress are not reported."""
        self._stopped = True
        for process in list(self._processes):
            process.kill()

    @contextmanager
    def _process(self) -> Iterator[subprocess.Popen[str]]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            self._command,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C must not reach them: an interrupted model would look like a crash
        )
        self._processes.add(process)
        if self._stopped:
            process.kill()
        try:
            yield process
        finally:
            self._processes.discard(process)
            process.kill()
            process.communicate()


def _ask(process: subprocess.Popen[str], name: str) -> Row | None:
    assert process.stdin is not None
    assert process.stdout is not None
    patience = threading.Timer(PATIENCE_SECONDS, process.kill)
    patience.daemon = True
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


def _read(notes: Path, ours: dict[str, str]) -> list[Row]:
    try:
        if not notes.exists():
            notes.write_text(json.dumps(ours) + "\n", encoding="utf-8")
        text = notes.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PerturbifyError(f"{notes} cannot be used for notes: {error}.", "Choose another file.") from error
    whole, _, cut = text.rpartition("\n")
    try:
        theirs, *found = [json.loads(line) for line in whole.splitlines()]
        rows = [Row(**row) for row in found]
        changed = [f"{k} {theirs.get(k)} there, {v} here" for k, v in ours.items() if theirs.get(k) != v]
    except (ValueError, TypeError, AttributeError) as error:
        raise PerturbifyError(f"{notes} is not a census, or is damaged ({error}).", "Choose another file.") from error
    if changed:
        raise PerturbifyError(f"{notes} is a census of other versions: {', '.join(changed)}.", "Choose another file.")
    if cut:  # the line that was being written when the last census was killed
        notes.write_text(f"{whole}\n", encoding="utf-8")
    return rows
