"""Writing files so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from glob import escape
from pathlib import Path

from perturbify.errors import OutputExists, PerturbifyError


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its destination and moves it there once it is complete and on disk.

    Args:
        path: Destination; an existing file is replaced, and its permissions stay.
        write: Gets the temporary path and fills it.

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
    for workplace in path.parent.glob(f".{escape(path.name)}.*.tmp"):
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
    replace_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


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
    if path.exists() and not path.is_file():
        raise OutputExists(f"{path} is a device, not a file.", "Name a file.")
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
