"""The terminal: its width, its colours, and a progress bar that disappears when done."""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import nullcontext
from typing import IO, TYPE_CHECKING, Any

import click

from perturbify import escape
from perturbify.text import duration, fill

if TYPE_CHECKING:
    from tqdm import tqdm

_LABELS = {
    "red": ("Error", "Failed", "FAILED", "GRADIENTS ARE DEAD"),
    "yellow": ("Warning", "warning", "Not established", "Interrupted", "open", "remark"),
    "green": ("Established", "holds"),
    "cyan": ("Hint",),
}
_COLOURS = {label: colour for colour, labels in _LABELS.items() for label in labels}
_LABEL = re.compile(rf"^({'|'.join(_COLOURS)})(?=[:. ,])", re.MULTILINE)
_OPEN: list[tqdm[Any]] = []  # bars on display


def width() -> int:
    """Columns of the terminal; 80 if stdout is not a terminal."""
    return shutil.get_terminal_size().columns


def is_live(stream: IO[str]) -> bool:
    """Whether output to a stream can be overwritten."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, stream: IO[str]) -> str:
    """Lines with coloured labels (verdicts, warnings, errors), if a stream shows colours."""
    if not is_live(stream) or os.environ.get("NO_COLOR"):
        return text
    return _LABEL.sub(lambda label: click.style(label[1], fg=_COLOURS[label[1]], bold=True), text)


def wrapped(text: str, columns: int) -> str:
    """Lines wrapped between words to a number of columns."""
    return "\n".join(line if len(line) <= columns else fill(line, columns, "  ") for line in text.split("\n"))


def bars_away(stream: IO[str]) -> Any:
    """A context in which bars are hidden, so that a line can be printed."""
    return _OPEN[-1].external_write_mode(file=stream) if _OPEN else nullcontext()


class Bar:
    """A progress bar on stderr, from the first unit of work to the last; nothing if stderr is not a terminal.

    Args:
        unit: What is counted.
        shown: Whether to show it at all.
    """

    def __init__(self, unit: str, *, shown: bool) -> None:
        self.live = shown and is_live(sys.stderr)
        self._unit = unit
        self._drawn: tqdm[Any] | None = None

    def show(self, what: str, done: int, total: int, seconds_left: float, more: str = "") -> None:
        """Redraws the bar; it disappears with the last unit.

        Args:
            what: The work.
            done: Units done.
            total: All units.
            seconds_left: Until the end.
            more: Further text, if there is room.
        """
        if not self.live:
            return
        if self._drawn is not None and self._drawn.total != total:
            self.close()
        if self._drawn is None:
            from tqdm import tqdm

            # Units done before a resume took no time in this process.
            self._drawn = tqdm(
                total=total, initial=max(0, done - 1), unit=self._unit, file=sys.stderr, leave=False, bar_format=" "
            )
            _OPEN.append(self._drawn)
        self._drawn.update(done - self._drawn.n)
        self._drawn.bar_format = self._fitting(what, f"{done}/{total}", f"{duration(seconds_left)} left", more)
        self._drawn.refresh()
        if done >= total:
            self.close()

    def close(self) -> None:
        """Removes it from the terminal."""
        if self._drawn is not None:
            self._drawn.close()
            _OPEN.remove(self._drawn)
            self._drawn = None

    def _fitting(self, what: str, done: str, left: str, more: str) -> str:
        """The most detailed form of the bar that fits the terminal: no word is cut."""
        assert self._drawn is not None
        figures, room = self._drawn.format_dict | {"ncols": None}, shutil.get_terminal_size().columns - 1
        what, more = (escape.terminal(text).replace("{", "{{").replace("}", "}}") for text in (what, more))
        forms = (
            f"{what} |{{bar:20}}| {done} [{{elapsed}}, {left}, {{rate_fmt}}]{more}",
            f"{what} |{{bar:10}}| {done} [{{elapsed}}, {left}, {{rate_fmt}}]",
            f"{what} {done} [{{elapsed}}, {left}, {{rate_fmt}}]",
            f"{what} {done} [{{elapsed}}, {left}]",
            f"{done} [{{elapsed}}, {left}]",
            done,
        )
        return next((f for f in forms if len(self._drawn.format_meter(**figures | {"bar_format": f})) <= room), done)
