"""Writing files so that a reader finds the old one or the new one, never half of one, and nobody else's is lost."""

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
"""Bytes of a text file that anybody reads whole."""

LOCK = ".perturbify-lock"
"""The empty file in a folder that carries its lock: only who holds the lock removes it, and nothing replaces it."""

_held: dict[Path, int] = {}  # folders that this process has locked, each with the thread that did


def replace_atomically(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Writes a file beside its destination and moves it there once it is complete and on disk.

    Args:
        path: Destination; an existing file is replaced, and its permissions stay.
        write: Gets the temporary path and fills it.
        keep: A second name for what was there before; it is given once the new file is complete.

    Raises:
        PerturbifyError: The file cannot be written; what was there before is untouched.
    """
    # A folder, since some writers (safetensors) make a temporary file of their own beside the one they are given.
    workplace = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary = workplace / path.name
    try:
        shutil.rmtree(workplace, ignore_errors=True)  # a dead process had this one's number
        workplace.mkdir()
        temporary.touch()
        # safetensors' may be read by nobody else.
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
            f"{path} cannot be written: {error.strerror or error}.", "What was there before is untouched."
        ) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    _sync_folder(path.parent)


def sweep(path: Path) -> None:
    """Removes what killed processes left beside a file that they were writing; see :func:`replace_atomically`."""
    left = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    for workplace in path.parent.iterdir():
        if left.fullmatch(workplace.name):
            shutil.rmtree(workplace, ignore_errors=True)


def keep_copy(path: Path, copy: Path) -> None:
    """Gives a file a second name, in one move; the file itself stays where it is throughout.

    Args:
        path: The file. Where there is none, nothing happens.
        copy: Its second name; what had it is replaced.

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
    """Writes a text file in one move; see :func:`replace_atomically`."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise PerturbifyError(
            f"{path} cannot be written: {error.object[error.start]!a} is no character that a text can hold."
        ) from error
    replace_atomically(path, lambda p: p.write_bytes(content))


def is_regular(path: Path, most: int | None = None) -> bool:
    """Whether a path is a file itself, no folder, device or pipe, and no link to anything; of ``most`` bytes."""
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and (most is None or found.st_size <= most)


def identity(path: Path) -> tuple[int, ...] | None:
    """Which writing of a file it is that stands there now; None where there is none."""
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size


def signed(text: str) -> str:
    """A page of Markdown or HTML with a last line, not shown, by which :func:`is_signed` knows it again."""
    body = f"{text.rstrip()}\n\n"
    return f"{body}<!-- {_SAID}{hashlib.sha256(body.encode()).hexdigest()} -->\n"


def is_signed(path: Path) -> bool:
    """Whether a page is ours, and as we wrote it: nobody has changed it since."""
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
    """Writes a file in one move where there is none, or one of ours; a warning says where it is put otherwise.

    Args:
        path: The file to be.
        text: What it is to hold; a page is to be :func:`signed`.
        ours: Whether a file that is there is ours, and may be replaced.

    Returns:
        Where it is; None where files of others have both its names, and it was left out.

    Raises:
        PerturbifyError: It cannot be written.
    """
    for place in (path, beside(path)):
        if not os.path.lexists(place) or ours(place):
            write_text(place, text)
            if place != path:
                warnings.warn(f"{path} is not as perturbify wrote it, so it stays; see {place}.", stacklevel=2)
            return place
    warnings.warn(f"{path} and {beside(path).name} are not as perturbify wrote them, so they stay.", stacklevel=2)
    return None


def beside(path: Path) -> Path:
    """The second name of a file of ours, where the first is taken by somebody else's."""
    return path.with_name(f"{path.stem}.perturbify{path.suffix}")


def set_aside(path: Path) -> Path:
    """Gives whatever is there a name beside its own that is free: ``metrics.jsonl.aside``, ``….aside-2``, ….

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
    """Keeps other processes out of a folder inside a ``with`` block; a killed one lets go of it.

    A folder that is not there is made, and removed at the end where nothing was put into it. Inside of another such
    block of the same thread nothing more happens. Where the system or the disk knows no locks, others are not kept out.

    Args:
        folder: The folder.
        busy: What is raised where somebody else is in it.

    Raises:
        PerturbifyError: ``busy``; or the folder cannot be made or written to.
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
    """Removes the locks of this process, which is to end at once."""
    for folder in list(_held):
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()


def _locked(path: Path, busy: PerturbifyError) -> int:
    """Opens a file, makes it where it is not there, and locks it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # others: a disk that knows no locks
                os.close(handle)
                raise busy from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                return handle
        os.close(handle)  # whoever held it has removed it since it was opened


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
        path: The file to be.
        force: Whether an existing file may be replaced.

    Raises:
        OutputExists: There is a file already.
        PerturbifyError: Its folder cannot be written to.
    """
    if path.is_dir():
        raise OutputExists(f"{path} is a folder.", "Name a file in it.")
    if os.path.lexists(path) and not path.is_file():
        raise OutputExists(f"{path} is a device or a broken link, not a file.", "Name a file.")
    if path.exists() and not force:
        raise OutputExists(f"{path} exists already.", "Choose another name, or replace it: --force, overwrite=True.")
    folder = path.parent
    if not folder.is_dir():
        raise PerturbifyError(f"There is no folder {folder}.", "Create it first.")
    if not os.access(folder, os.W_OK):
        raise PerturbifyError(f"The folder {folder} cannot be written to.", "Choose another one.")


def _sync_folder(path: Path) -> None:
    """Puts a move on disk, where the system can; the file is whole without it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
