"""What a check has found so far: a line of JSON for each attack and batch, from which a killed check resumes.

Each line is sealed by a digest of its content and of the check's settings, so a changed line, or one from another
check, does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perturbify import strict_json
from perturbify.errors import CheckError
from perturbify.files import is_regular

_ABOUT = {"torch", "plan", "attacks", "images", "networks"}
_NAME = re.compile(r"records-\d+\.jsonl")


@dataclass(frozen=True)
class Record:
    """One batch under one attack.

    Attributes:
        case: Id of the case.
        batch: Number of the batch.
        seed: Seed of its random numbers.
        images: Numbers of the attacked images within the batch; the others were skipped and count as wrong.
        right: For each of them a string of ones and zeros: draw by draw, whether the answer was right.
        majority: For each, whether the right class was the most frequent.
        lasted: For each, how many answers in a row were right from the first on, at most ``queries``.
        queries: Queries in a row.
        fooled: For each, whether the attack reports success; None without an attack.
        linf: For each, the greatest change of a pixel.
        l2: For each, the length of the change.
        seconds: Time taken.
        pictures: Some of the images, for the case shown in the report.
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
    """The records of a check, in memory and, with a folder, on disk.

    Every process has a file of its own there; all are read.

    Args:
        folder: Where they are kept; None keeps them in memory.
        about: What is checked and how, as JSON values; records of another check are refused.
        rank: Number of the process.

    Raises:
        CheckError: The folder holds another check's records, damaged ones, or something else under their name.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any], rank: int = 0) -> None:
        self._about: dict[str, Any] = json.loads(json.dumps(about))
        self._found: dict[tuple[str, int], Record] = {}
        self._own: Path | None = None
        if folder is not None:
            self._own = folder / f"records-{rank}.jsonl"
            for path in sorted(folder.iterdir()):
                if _NAME.fullmatch(path.name):
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
        """Images of a batch that are lost: no draw was right under one of some cases."""
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
        try:
            begun = self._own.exists() and self._own.stat().st_size
            text = self._line(record) if begun else _json(self._about) + self._line(record)
            with self._own.open("a", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckError(
                f"{self._own} cannot be written: {error.strerror or error}.", "Make room and resume."
            ) from error

    def _read(self, path: Path) -> list[Record]:
        content = _content(path)
        *lines, cut = content.split(b"\n")
        about = _parsed(lines[0]) if lines else self._about
        theirs = about if isinstance(about, dict) else {}
        differing = [k for k in {**self._about, **theirs} if self._about.get(k) != theirs.get(k)]
        if theirs.keys() >= _ABOUT and differing:
            raise CheckError(
                f"{path.parent} holds the records of another check, which differs in {', '.join(differing)}.",
                "Use the same settings as before, or another folder.",
            )
        records = [self._opened(line) for line in lines[1:]]
        wrong = 1 if differing else 2 + records.index(None) if None in records else None
        if wrong is not None:
            raise CheckError(
                f"{path} is damaged: line {wrong} is not one that a check wrote.",
                "Move it elsewhere, and its part of the check is done again; or use another folder.",
            )
        if cut and path == self._own:  # the line that was being written when the check was killed
            self._shorten(path, len(content) - len(cut))
        return [record for record in records if record is not None]

    def _shorten(self, path: Path, length: int) -> None:
        try:
            if length:
                os.truncate(path, length)
            else:
                path.unlink()
        except OSError as error:
            raise CheckError(f"{path} cannot be written: {error.strerror or error}.") from error

    def _line(self, record: Record) -> str:
        return _json(asdict(record) | {"seal": self._seal(asdict(record))})

    def _opened(self, line: bytes) -> Record | None:
        """The record in a line; None if it was changed or is another check's."""
        values = _parsed(line)
        if not isinstance(values, dict) or values.pop("seal", None) != self._seal(values):
            return None
        try:
            return Record(**values)
        except TypeError:
            return None

    def _seal(self, values: dict[str, Any]) -> str:
        text = json.dumps([self._about, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_ours(path: Path) -> bool:
    """Whether a file holds the records of any check."""
    if not is_regular(path):
        return False
    try:
        with path.open("rb") as file:
            about = _parsed(file.readline(2**24))
    except OSError:
        return False
    return isinstance(about, dict) and about.keys() >= _ABOUT


def _content(path: Path) -> bytes:
    hint = "Move it elsewhere, or use another folder."
    if not path.is_file():
        raise CheckError(f"{path} is not a file.", hint)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror or error}.", hint) from error


def _json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


def _parsed(line: bytes) -> Any:
    try:
        return strict_json.loads(line.decode())
    except ValueError:
        return None
