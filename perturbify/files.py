"""Writes files atomically: a reader sees the old file or the new one, and no foreign file is lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perturbify.errors import OutputExists, PerturbifyError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MOST = 2**28
"""Maximum size in bytes of a text file that is read whole."""

LOCK = ".perturbify-lock"
"""The empty lock file of a folder: only the lock's holder removes it, and nothing replaces it."""

_held: dict[Path, int] = {}  # folders locked by this process, with the thread that locked each


def replace_atomically(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Writes a file next to its destination and moves it there once it is complete and on disk.

    Args:
        path: Destination; an existing file is replaced, keeping its permissions.
        write: Called with the temporary path, which it must fill.
        keep: A second name for the previous file, assigned once the new file is complete.

    Raises:
        PerturbifyError: The file cannot be written; the previous file is untouched.
    """
    # A folder, since some writers (safetensors) create a temporary file of their own next to the given one.
    workplace = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary = workplace / path.name
    try:
        shutil.rmtree(workplace, ignore_errors=True)  # left by a dead process with the same id
        workplace.mkdir()
        temporary.touch()
        # safetensors creates files that nobody else may read.
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        if keep is not None:
            keep_copy(path, keep)
        temporary.replace(path)
    except OSError as error:
        raise PerturbifyError(
            f"{path} cannot be written: {error.strerror or error}.", "The previous file, if any, is untouched."
        ) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    _sync_folder(path.parent)


def sweep(path: Path) -> None:
    """Removes what killed processes left next to a file they were writing; see :func:`replace_atomically`."""
    left = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    for workplace in path.parent.iterdir():
        if left.fullmatch(workplace.name):
            shutil.rmtree(workplace, ignore_errors=True)


def keep_copy(path: Path, copy: Path) -> None:
    """Gives a file a second name, atomically; the file itself stays in place.

    Args:
        path: The file; if it does not exist, nothing happens.
        copy: Its second name; an existing file of that name is replaced.

    Raises:
        PerturbifyError: The copy cannot be made.
    """

    def link(temporary: Path) -> None:
        temporary.unlink()
        try:
            temporary.hardlink_to(path)
        except OSError:  # some file systems have no links
            shutil.copyfile(path, temporary)

    if path.is_file():
        replace_atomically(copy, link)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically; see :func:`replace_atomically`."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise PerturbifyError(
            f"{path} cannot be written: {error.object[error.start]!a} is not a valid character."
        ) from error
    replace_atomically(path, lambda p: p.write_bytes(content))


def is_regular(path: Path, most: int | None = None) -> bool:
    """Whether a path is a regular file of at most ``most`` bytes, not a folder, device, pipe or link."""
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and (most is None or found.st_size <= most)


def identity(path: Path) -> tuple[int, ...] | None:
    """Identifies the current version of a file; None if it does not exist."""
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size


def signed(text: str) -> str:
    """A Markdown or HTML page with a hidden last line by which :func:`is_signed` recognises it."""
    body = f"{text.rstrip()}\n\n"
    return f"{body}<!-- {_SAID}{hashlib.sha256(body.encode()).hexdigest()} -->\n"


def is_signed(path: Path) -> bool:
    """Whether we wrote a page and nobody has changed it since."""
    if not is_regular(path, MOST):
        return False
    try:
        content = path.read_bytes()
    except OSError:
        return False
    body, start, _ = content.rpartition(f"<!-- {_SAID}".encode())
    return bool(start) and content == body + f"<!-- {_SAID}{hashlib.sha256(body).hexdigest()} -->\n".encode()


_SAID = "Written by perturbify, which replaces this page as long as nobody has changed it: sha256 "


def write_own(path: Path, text: str, ours: Callable[[Path], bool] = is_signed) -> Path | None:
    """Writes a file atomically, replacing only our own; otherwise it gets another name, and a warning says so.

    Args:
        path: The file to write.
        text: Its content; a page must be :func:`signed`.
        ours: Whether an existing file is ours and may be replaced.

    Returns:
        Where it was written; None if both names are taken by foreign files and it was not written.

    Raises:
        PerturbifyError: It cannot be written.
    """
    for place in (path, beside(path)):
        if not os.path.lexists(place) or ours(place):
            write_text(place, text)
            if place != path:
                warnings.warn(f"{path} is not as perturbify wrote it, so it is kept; see {place}.", stacklevel=2)
            return place
    warnings.warn(f"{path} and {beside(path).name} are not as perturbify wrote them, so they are kept.", stacklevel=2)
    return None


def beside(path: Path) -> Path:
    """The alternative name for one of our files if a foreign file has its name."""
    return path.with_name(f"{path.stem}.perturbify{path.suffix}")


def set_aside(path: Path) -> Path:
    """Renames a file to a free name next to it: ``metrics.jsonl.aside``, ``….aside-2``, ….

    Returns:
        The new name.

    Raises:
        PerturbifyError: It cannot be renamed.
    """
    target, number = path.with_name(f"{path.name}.aside"), 2
    while os.path.lexists(target):
        target, number = path.with_name(f"{path.name}.aside-{number}"), number + 1
    try:
        path.rename(target)
    except OSError as error:
        raise PerturbifyError(f"{path} cannot be renamed: {error.strerror or error}.") from error
    return target


@contextmanager
def alone(folder: Path, busy: PerturbifyError) -> Iterator[None]:
    """Locks a folder against other processes inside a ``with`` block; a killed process releases it.

    A missing folder is created, and removed at the end if it is empty. Nested blocks of the same thread have no further
    effect. If the system or the disk has no locks, other processes are not kept out.

    Args:
        folder: The folder.
        busy: What to raise if another process or thread holds the lock.

    Raises:
        PerturbifyError: ``busy``, or the folder cannot be created or written to.
    """
    key, me = folder.absolute().resolve(), threading.get_ident()
    if _held.get(key) == me:
        yield
        return
    if _held.setdefault(key, me) != me:
        raise busy
    made: list[Path] = []
    try:
        with _errors_of(folder):
            for path in reversed([folder, *folder.parents]):
                if not path.exists():
                    with contextlib.suppress(FileExistsError):  # another process was faster
                        path.mkdir()
                        made.append(path)
            handle = None if fcntl is None else _locked(folder / LOCK, busy)
        try:
            yield
        finally:
            if handle is not None:
                with contextlib.suppress(OSError):
                    (folder / LOCK).unlink()
                os.close(handle)
    finally:
        del _held[key]
        for path in reversed(made):
            with contextlib.suppress(OSError):  # it is in use
                path.rmdir()


def let_go() -> None:
    """Removes the locks of this process before it exits at once."""
    for folder in list(_held):
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()


def _locked(path: Path, busy: PerturbifyError) -> int:
    """Opens a file, creating it if necessary, and locks it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # other errors: a disk without locks
                os.close(handle)
                raise busy from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                return handle
        os.close(handle)  # the holder has removed it since it was opened


@contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PerturbifyError(
            f"The folder {folder} cannot be written to: {error.strerror or error}.", "Choose another one."
        ) from error


def check_output(path: Path, *, force: bool = False) -> None:
    """Makes sure, before any long work, that an output file can be written.

    Args:
        path: The file to write.
        force: Whether an existing file may be replaced.

    Raises:
        OutputExists: The file exists.
        PerturbifyError: Its folder cannot be written to.
    """
    if path.is_dir():
        raise OutputExists(f"{path} is a folder.", "Name a file in it.")
    if os.path.lexists(path) and not path.is_file():
        raise OutputExists(f"{path} is a device or a broken link, not a file.", "Name a file.")
    if path.exists() and not force:
        raise OutputExists(f"{path} already exists.", "Choose another name, or replace it: --force, overwrite=True.")
    folder = path.parent
    if not folder.is_dir():
        raise PerturbifyError(f"There is no folder {folder}.", "Create it first.")
    if not os.access(folder, os.W_OK):
        raise PerturbifyError(f"The folder {folder} cannot be written to.", "Choose another one.")


def _sync_folder(path: Path) -> None:
    """Flushes a move to disk if the system can; the file is complete without it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
