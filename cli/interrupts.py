"""Ctrl-C and SIGTERM: in every phase, one last line says what is saved and how to resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from perturbify import escape
from perturbify.cli.console import say
from perturbify.files import let_go

NOTHING_LOST = "No file is half written; the same command starts over."
STATUS = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}

_saying: list[Callable[[], str]] = []  # the innermost block's is last


class Interrupted(SystemExit):
    """Ends a command on SIGINT or SIGTERM, with the shell's exit status for them.

    Attributes:
        said: Whether the last line is written.
    """

    said = False


@contextmanager
def safe(what: str | Callable[[], str] = NOTHING_LOST) -> Iterator[None]:
    """Sets the message for an interruption of the block: what is saved, and how to resume; inner blocks come first.

    Args:
        what: One or two sentences, or a function that returns them at that moment.

    Raises:
        Interrupted: The block was interrupted.
    """
    _saying.append(what if callable(what) else lambda: what)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        status = 130 if isinstance(error, KeyboardInterrupt) else error.code
        if status not in STATUS:
            raise
        ended = error if isinstance(error, Interrupted) else Interrupted(status)
        if not ended.said:
            ended.said = True
            if os.environ.get("RANK", "0") == "0":  # under torchrun, only the first process prints
                with suppress(OSError):
                    say(_line(), err=True)
        raise ended from None
    finally:
        _saying.pop()


class _Handler:
    """Ends the process with an exception, so that half-written files are removed.

    During an import it ends at once: C code may swallow an exception there, and nothing is being written. A second
    signal also ends it at once.

    Attributes:
        gives_way: Whether a run is in charge, which finishes its step and saves before it ends.
    """

    gives_way = True

    def __init__(self) -> None:
        self._process, self._asked = os.getpid(), False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker: it prints nothing, and ends with its parent
            if number == signal.SIGINT:
                return
            os._exit(128 + number)
        if self._asked or _importing(frame):
            let_go()
            with suppress(OSError):
                os.write(2, f"{_line()}\n".encode(errors="replace"))
            os._exit(128 + number)
        self._asked = True
        raise Interrupted(128 + number)


def listen() -> None:
    """Handles SIGINT and SIGTERM from now on, unless someone else does; torchrun ends its processes by itself."""
    if "RANK" in os.environ or threading.current_thread() is not threading.main_thread():
        return
    handler = _Handler()
    for number in STATUS.values():
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, handler)


def finished() -> None:
    """Stops handling signals: everything is written, and the process is about to end."""
    for number in STATUS.values():
        if isinstance(signal.getsignal(number), _Handler):
            signal.signal(number, signal.SIG_IGN)


def _line() -> str:
    return escape.terminal(f"Interrupted. {_saying[-1]() if _saying else NOTHING_LOST}", None)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
