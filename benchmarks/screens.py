"""A command in a pseudo-terminal, and what a person sees there: pyte keeps the screen."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pyte

BEYOND = 400


def seen(*arguments, columns=80, lines=24, cwd=None, timeout=240, **environment):
    """Runs ``perturbify`` in a terminal of that size; what is too long for it goes on beyond its edge.

    Returns:
        The exit status, the lines of the screen with what scrolled off it, all screens on the way (at most ten a
        second), and what was written, byte by byte.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=cwd,
        env=env | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | environment,
        start_new_session=True,
    )
    os.close(slave)
    screen = pyte.HistoryScreen(columns + BEYOND, lines, history=10_000, ratio=1)
    stream, written, screens = pyte.ByteStream(screen), b"", []
    ends = time.monotonic() + timeout
    while time.monotonic() < ends:
        ready, _, _ = select.select([master], [], [], 0.1)
        if ready:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the command has ended
                break
            if not piece:
                break
            written += piece
            stream.feed(piece)
            screens.append([line.rstrip() for line in screen.display])
    status = process.wait(timeout=30)
    os.close(master)
    above = ["".join(line[i].data for i in range(columns + BEYOND)).rstrip() for line in screen.history.top]
    return status, [*above, *(line.rstrip() for line in screen.display)], screens, written
