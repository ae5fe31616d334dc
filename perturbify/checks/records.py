"""What a check has found so far: a line of JSON for each attack and batch, so that a killed check goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perturbify.errors import CheckError


@dataclass(frozen=True)
class Record:
    """One batch under one attack.

    Attributes:
        case: Id of the case.
        batch: Number of the batch.
        seed: Of its random numbers.
        images: Numbers of the images that were attacked, within the batch; the others were left out, and count as
            wrong.
        right: For each of them a text of ones and zeros: draw by draw, whether the answer was right.
        majority: For each, whether the right class came most often.
        lasted: For each, how many answers in a row were right from the first on, at most ``queries``.
        queries: Answers asked for in a row.
        fooled: For each, whether the attack holds that it succeeded; None without an attack.
        linf: For each, the greatest change of a pixel.
        l2: For each, the length of the change.
        seconds: Time it took.
        pictures: Some of the images, for the case that the report shows.
    """

    case: str
    batch: int
    seed: int
    images: list[int]
    right: list[str]
    majority: list[bool]
    lasted: list[int]
    queries: int
    fooled: list[bool] | None
    linf: list[float]
    l2: list[float]
    seconds: float
    pictures: list[dict[str, Any]] | None = None


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

    def __getitem__(self, key: tuple[str, int]) -> Record:
        return self._found[key]

    def of(self, case: str) -> list[Record]:
        """The records of one case, in the order of its batches."""
        return [self._found[key] for key in sorted(key for key in self._found if key[0] == case)]

    def lost(self, cases: Sequence[str], batch: int) -> set[int]:
        """Images of a batch on which nothing is left to win: no draw was right under one of some cases."""
        found = (self._found[case, batch] for case in cases if (case, batch) in self._found)
        return {image for r in found for image, row in zip(r.images, r.right, strict=True) if "1" not in row}

    def all(self) -> list[Record]:
        """All records."""
        return list(self._found.values())

    def keep(self, record: Record) -> None:
        """Keeps a record of another process, in memory."""
        self._found[record.case, record.batch] = record

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
        whole, _, cut = path.read_bytes().rpartition(b"\n")
        try:
            about, *lines = [json.loads(line) for line in _lines(whole)] or [self._about]
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
            path.write_bytes(whole + b"\n" if whole else b"")
            if not whole:
                path.unlink()
        return iter(records)


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8").split("\n") if text else []
