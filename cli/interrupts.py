"""Ctrl-C and SIGTERM: in whatever phase they come, one last line says what is safe and how to go on."""

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

NOTHING_LOST = "Nothing is half written; the same command starts over."
STATUS = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}

_saying: list[Callable[[], str]] = []  # the innermost block's last


class Interrupted(SystemExit):
    """Ends a command on SIGINT or SIGTERM, with the exit status that shells give to those.

    Attributes:
        said: Whether the last line is written.
    """

    said = False


@contextmanager
def safe(what: str | Callable[[], str] = NOTHING_LOST) -> Iterator[None]:
    """Says what is safe, and how to go on, should the block be interrupted; blocks inside of it come first.

    Args:
        what: One or two sentences, or what gives them at that moment.

    Raises:
        Interrupted: It was.
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
            if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one speaks
                with suppress(OSError):
                    say(_line(), err=True)
        raise ended from None
    finally:
        _saying.pop()


class _Handler:
    """Ends the process by an exception, so that what is being written is cleaned up.

    In an import it ends it at once: C code may swallow an exception there, and nothing is being written. So does the
    second signal.

    Attributes:
        gives_way: To a run, which finishes its step and saves before it ends.
    """

    gives_way = True

    def __init__(self) -> None:
        self._process, self._asked = os.getpid(), False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker: it has nothing to say, and Ctrl-C ends it with its parent
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
    """Listens to SIGINT and SIGTERM from now on, where nobody else does; torchrun ends its processes by itself."""
    if "RANK" in os.environ or threading.current_thread() is not threading.main_thread():
        return
    handler = _Handler()
    for number in STATUS.values():
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, handler)


def finished() -> None:
    """Listens no more: all is said and done, and what is left is to leave."""
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
