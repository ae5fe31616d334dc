"""What a check has found so far: a line of JSON for each attack and batch, so that a killed check goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perturbify.errors import CheckError


@dataclass(frozen=True)
class Record:
    """One batch under one attack.

    Attributes:
        trial: Key of the trial.
        batch: Number of the batch.
        seed: Of its random numbers.
        right: For each image a text of ones and zeros: draw by draw, whether the answer was right.
        majority: For each image, whether the right class came most often.
        lasted: For each image, how many answers in a row were right from the first on, at most ``queries``.
        queries: Answers asked for in a row.
        fooled: For each image, whether the attack holds that it succeeded; None without an attack.
        linf: For each image, the greatest change of a pixel.
        l2: For each image, the length of the change.
        seconds: Time it took.
        pictures: Some of its images, for the trial that the report shows.
    """

    trial: str
    batch: int
    seed: int
    right: list[str]
    majority: list[bool]
    lasted: list[int]
    queries: int
    fooled: list[bool] | None
    linf: list[float]
    l2: list[float]
    seconds: float
    pictures: list[dict[str, str]] | None = None


class Records:
    """The records of a check, in memory and, where there is a folder, on disk.

    Every process has a file of its own there; all are read.

    Args:
        folder: Where they are kept; None keeps them in memory.
        about: What the check is of, as JSON values; records of another check are refused.
        rank: Number of the process.

    Raises:
        CheckError: The folder holds the records of another check, or damaged ones.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any], rank: int = 0) -> None:
        self._about: dict[str, Any] = json.loads(json.dumps(about))
        self._found: dict[tuple[str, int], Record] = {}
        self._own: Path | None = None
        if folder is not None:
            self._own = folder / f"records-{rank}.jsonl"
            for path in sorted(folder.glob("records-*.jsonl")):
                for record in self._read(path):
                    self.keep(record)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._found

    def of(self, trial: str) -> list[Record]:
        """The records of one trial, in the order of its batches."""
        return [self._found[key] for key in sorted(key for key in self._found if key[0] == trial)]

    def all(self) -> list[Record]:
        """All records."""
        return list(self._found.values())

    def keep(self, record: Record) -> None:
        """Keeps a record of another process, in memory."""
        self._found[record.trial, record.batch] = record

    def add(self, record: Record) -> None:
        """Keeps a record of this process; on disk before this returns."""
        self.keep(record)
        if self._own is None:
            return
        lines = [] if self._own.exists() and self._own.stat().st_size else [self._about]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (*lines, asdict(record)))
        try:
            with self._own.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckError(
                f"{self._own} cannot be written: {error.strerror or error}.", "Make room and resume."
            ) from error

    def _read(self, path: Path) -> Iterator[Record]:
        text = path.read_text(encoding="utf-8")
        whole, _, cut = text.rpartition("\n")
        try:
            about, *lines = [json.loads(line) for line in whole.splitlines()] or [self._about]
            records = [Record(**line) for line in lines]
        except (ValueError, TypeError) as error:
            raise CheckError(f"{path} is damaged ({error}).", "Remove it, or check into another folder.") from error
        theirs = about if isinstance(about, dict) else {}
        differing = [k for k in {**self._about, **theirs} if self._about.get(k) != theirs.get(k)]
        if differing:
            raise CheckError(
                f"{path.parent} holds the records of another check: another {', '.join(differing)}.",
                "Give the same settings as before, or another folder.",
            )
        if cut and path == self._own:  # the line that was being written when the check was killed
            path.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
            if not whole:
                path.unlink()
        return iter(records)
