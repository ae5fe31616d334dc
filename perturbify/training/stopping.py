"""Requests to stop: the first one lets the step finish, so that the state can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequests:
    """Requests so far.

    Attributes:
        signal: SIGINT or SIGTERM, once received.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def obey(self) -> None:
        """Ends the run as the signal would have, if one was received.

        Raises:
            KeyboardInterrupt: It was SIGINT.
            SystemExit: It was SIGTERM; status 143, as shells report it.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal; a second Ctrl-C stops at once, while SIGTERM may reach a process several times."""
        again = self.signal is not None and number == signal.SIGINT
        self.signal = number
        if again:
            self.obey()


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Records SIGINT and SIGTERM inside a ``with`` block instead of ending the process.

    The caller's own handlers stay in charge, unless they are marked as giving way (``handler.gives_way = True``), and
    so do Python's outside the main thread.
    """
    requests = StopRequests()
    replaced = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        defaults = (signal.default_int_handler, signal.SIG_DFL)
        replaced = {n: h for n, h in before.items() if h in defaults or getattr(h, "gives_way", False)}
    try:
        for number in replaced:
            signal.signal(number, requests.note)
        yield requests
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
