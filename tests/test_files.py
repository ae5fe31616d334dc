"""A reader finds the old file or the new one, whatever happens to the writer."""

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from perturbify.errors import OutputExists, PerturbifyError
from perturbify.files import check_output, replace_atomically, sweep, write_text


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file(tmp_path):
    path = tmp_path / "new.txt"
    write_text(path, "θ ⊙ ε\n")
    assert path.read_bytes() == "θ ⊙ ε\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["new.txt"]


def test_an_existing_file_is_replaced(old, tmp_path):
    reader = old.open()
    write_text(old, "new")
    assert old.read_text() == "new"
    assert reader.read() == "old"  # who has it open reads what he opened
    reader.close()
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def half_and_fail(error):
    def write(path):
        path.write_text("ne")
        raise error

    return write


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("just so")], ids=str)
def test_a_failed_write_leaves_the_old_file(old, tmp_path, error):
    with pytest.raises(PerturbifyError, match=r"cannot be written: .*untouched") as caught:
        replace_atomically(old, half_and_fail(error))
    assert str(old) in caught.value.message and (error.strerror or "just so") in caught.value.message
    assert old.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine"), SystemExit(1)], ids=repr)
def test_an_interruption_passes_through_and_leaves_the_old_file(old, tmp_path, error):
    with pytest.raises(type(error)):
        replace_atomically(old, half_and_fail(error))
    assert old.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


KILLED_AMID = """
import os, signal, sys
from pathlib import Path
from perturbify.files import replace_atomically

def write(path):  # as safetensors does, by a temporary file of its own beside the given one
    path.with_name(".tmpHALF").write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)

replace_atomically(Path(sys.argv[1]), write)
"""


def test_what_a_killed_process_left_is_swept_away(old, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED_AMID, str(old)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert old.read_text() == "old"
    sweep(tmp_path / "another.txt")
    assert len(list(tmp_path.iterdir())) == 2
    sweep(old)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_disk_that_fills_up(old, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(PerturbifyError, match="cannot be written"):
            write_text(old, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert old.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_writer_that_writes_nothing_leaves_an_empty_file_not_an_error(tmp_path):
    path = tmp_path / "empty"
    replace_atomically(path, lambda p: None)
    assert path.read_bytes() == b""


def test_the_folder_need_not_take_a_sync(old, monkeypatch):
    """Some file systems refuse to sync a folder; the file is there all the same."""
    real = os.open

    def refuse_folders(path, *how):
        if Path(path).is_dir():
            raise OSError(22, "Invalid argument")
        return real(path, *how)

    monkeypatch.setattr(os, "open", refuse_folders)
    write_text(old, "new")
    assert old.read_text() == "new"


def test_a_new_file_is_as_readable_as_any_other(tmp_path, umask):
    """Also where the writer makes a file for its own eyes and renames it, as safetensors does."""
    path = tmp_path / "new"

    def write(temporary):
        private = temporary.with_name("private")
        private.touch(mode=0o600)
        private.replace(temporary)

    replace_atomically(path, write)
    assert mode(path) == 0o666 & ~umask


def test_a_replaced_file_keeps_its_permissions(old, umask):
    old.chmod(0o640)
    write_text(old, "new")
    assert mode(old) == 0o640


def test_where_nothing_can_be_written(tmp_path):
    for path in (tmp_path / "missing" / "file", tmp_path / ("n" * 300)):
        with pytest.raises(PerturbifyError, match="cannot be written"):
            write_text(path, "new")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_can_be_written(old, tmp_path):
    check_output(tmp_path / "new.txt")
    check_output(old, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_an_existing_output(old):
    with pytest.raises(OutputExists, match=r"exists already.*--force, overwrite=True"):
        check_output(old)


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_no_file(tmp_path, force):
    with pytest.raises(OutputExists, match="is a folder"):
        check_output(tmp_path, force=force)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputExists, match="not a file"):
        check_output(tmp_path / "pipe", force=force)


def test_an_output_without_a_folder(tmp_path, old):
    with pytest.raises(PerturbifyError, match=r"There is no folder .*missing"):
        check_output(tmp_path / "missing" / "file")
    with pytest.raises(PerturbifyError, match=r"There is no folder"):
        check_output(old / "file")


def test_an_unwritable_folder(tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, how: how != os.W_OK)
    with pytest.raises(PerturbifyError, match=r"locked cannot be written to"):
        check_output(folder / "file")
