"""A reader finds the old file or the new one, whatever happens to the writer; and nobody's are mixed up."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbify.errors import OutputExists, PerturbifyError
from perturbify.files import (
    LOCK,
    alone,
    beside,
    check_output,
    is_signed,
    replace_atomically,
    set_aside,
    signed,
    sweep,
    write_own,
    write_text,
)


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
def test_an_interruption_leaves_the_old_file(old, tmp_path, error):
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


def test_remains_of_a_killed_process_are_removed(old, tmp_path):
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


def test_writing_nothing_leaves_an_empty_file(tmp_path):
    path = tmp_path / "empty"
    replace_atomically(path, lambda p: None)
    assert path.read_bytes() == b""


def test_a_folder_that_cannot_sync_is_accepted(old, monkeypatch):
    """Some file systems refuse to sync a folder; the file is there all the same."""
    real = os.open

    def refuse_folders(path, *how):
        if Path(path).is_dir():
            raise OSError(22, "Invalid argument")
        return real(path, *how)

    monkeypatch.setattr(os, "open", refuse_folders)
    write_text(old, "new")
    assert old.read_text() == "new"


def test_a_new_file_has_the_usual_permissions(tmp_path, umask):
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


def test_a_missing_folder_or_too_long_name(tmp_path):
    for path in (tmp_path / "missing" / "file", tmp_path / ("n" * 300)):
        with pytest.raises(PerturbifyError, match="cannot be written"):
            write_text(path, "new")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_can_be_written(old, tmp_path):
    check_output(tmp_path / "new.txt")
    check_output(old, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_an_existing_output(old):
    with pytest.raises(OutputExists, match=r"already exists.*--force, overwrite=True"):
        check_output(old)


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_not_a_file(tmp_path, force):
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


def test_text_that_cannot_be_encoded(old):
    with pytest.raises(PerturbifyError, match=r"file\.txt cannot be written: '\\udcff' is not a valid character"):
        write_text(old, "a\udcff")
    assert old.read_text() == "old"


def test_only_our_own_temporary_files_are_removed(old, tmp_path):
    for name in (".file.txt.mine.tmp", ".file.txt.7.tmp.bak", "file.txt.7.tmp", ".file.txt.tmp"):
        (tmp_path / name).mkdir()
    sweep(old)
    assert len(list(tmp_path.iterdir())) == 5


# Pages that are known again


@given(st.text(st.characters(codec="utf-8")))
def test_a_page_is_recognised_until_somebody_changes_it(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "page.md"
    write_text(path, signed(text))
    assert is_signed(path)
    whole = path.read_bytes()
    assert whole.startswith(text.rstrip().encode())
    for other in (whole + b"\n", b" " + whole, whole[:-2], whole.replace(b"sha256 ", b"sha256 0"), whole + whole, b""):
        path.write_bytes(other)
        assert not is_signed(path)


def test_links_and_pipes_are_not_our_pages(tmp_path):
    path = tmp_path / "page.md"
    write_text(path, signed("text"))
    (tmp_path / "link.md").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.md")
    assert not any(is_signed(tmp_path / name) for name in ("link.md", "pipe.md", "none.md", "."))


def test_a_page_never_replaces_a_users_file(tmp_path):
    path = tmp_path / "page.md"
    for text in ("one", "another"):
        assert write_own(path, signed(text)) == path
        assert path.read_text().startswith(text)
    path.write_text("mine")
    for text in ("one", "another"):
        with pytest.warns(UserWarning, match=r"page\.md is not as perturbify wrote it.*page\.perturbify\.md"):
            assert write_own(path, signed(text)) == beside(path)
        assert (path.read_text(), beside(path).read_text()[:3]) == ("mine", text[:3])
    beside(path).write_text("mine, too")
    with pytest.warns(UserWarning, match="are not as perturbify wrote them"):
        assert write_own(path, signed("one")) is None
    assert beside(path).read_text() == "mine, too"


def test_setting_a_file_aside_never_overwrites_another(tmp_path):
    for number, name in enumerate(("a.aside", "a.aside-2", "a.aside-3")):
        (tmp_path / "a").write_text(f"{number}")
        assert set_aside(tmp_path / "a") == tmp_path / name
    assert [(tmp_path / name).read_text() for name in ("a.aside", "a.aside-2", "a.aside-3")] == ["0", "1", "2"]


# A folder for one process at a time

BUSY = PerturbifyError("busy")

ALONE = """
import sys, time
from pathlib import Path
from perturbify.errors import PerturbifyError
from perturbify.files import alone
sys.stdin.readline()
try:
    with alone(Path(sys.argv[1]), PerturbifyError("busy")):
        print("held", flush=True)
        sys.stdin.readline()
except PerturbifyError as error:
    print(error, flush=True)
"""


@pytest.fixture
def others(tmp_path):
    """So many processes that all want the same folder, which is not there yet, at once; what each of them said."""
    running = []

    def others(count):
        for _ in range(count):
            command = [sys.executable, "-c", ALONE, str(tmp_path / "new" / "folder")]
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in running:
            process.stdin.write("\n")
            process.stdin.flush()
        return running, [process.stdout.readline() for process in running]

    yield others
    for process in running:
        process.kill()
        process.communicate()


posix = pytest.mark.skipif(sys.platform == "win32", reason="files are locked on POSIX systems")


@posix
def test_only_one_of_several_processes_gets_the_lock(others, tmp_path):
    running, said = others(4)
    assert sorted(said) == ["busy\n"] * 3 + ["held\n"]
    first = running[said.index("held\n")]
    folder = tmp_path / "new" / "folder"
    with pytest.raises(PerturbifyError, match="busy"), alone(folder, BUSY):
        pass
    write_text(folder / "file", "replaced")  # the lock is on a file that nothing replaces
    with pytest.raises(PerturbifyError, match="busy"), alone(folder, BUSY):
        pass
    first.kill()
    first.wait()
    with alone(folder, BUSY):
        assert {p.name for p in folder.iterdir()} == {LOCK, "file"}
    assert {p.name for p in folder.iterdir()} == {"file"}


@posix
def test_a_nested_block_does_not_release_the_lock(others, tmp_path):
    folder = tmp_path / "new" / "folder"
    with alone(folder, BUSY):
        with alone(folder, BUSY):
            pass
        assert others(1)[1] == ["busy\n"]


def test_two_threads_exclude_each_other(tmp_path):
    found = []

    def other():
        try:
            with alone(tmp_path, BUSY):
                found.append("held")
        except PerturbifyError as error:
            found.append(str(error))

    with alone(tmp_path, BUSY):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == ["busy"]
    other()
    assert found == ["busy", "held"]


def test_a_folder_created_in_vain_is_removed(tmp_path):
    for left in (False, True):
        with pytest.raises(KeyboardInterrupt), alone(tmp_path / "a" / "b", BUSY):
            if left:
                (tmp_path / "a" / "mine").touch()
            raise KeyboardInterrupt
        assert [p.name for p in tmp_path.rglob("*")] == (["a", "mine"] if left else [])
    (tmp_path / "empty").mkdir()
    with alone(tmp_path / "empty", BUSY):
        pass
    assert (tmp_path / "empty").is_dir(), "it was the user's"


def test_a_lock_that_leads_elsewhere(tmp_path):
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PerturbifyError, match="cannot be written to"), alone(tmp_path, BUSY):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with alone(tmp_path, BUSY):
        pass


def test_a_lock_folder_that_cannot_be_created(tmp_path, old):
    for path in (old / "folder", tmp_path / ("n" * 300)):
        with pytest.raises(PerturbifyError, match="cannot be written to"), alone(path, BUSY):
            pass
