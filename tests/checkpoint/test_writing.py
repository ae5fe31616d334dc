"""Files that are there already, full disks, writers that die: whatever happens, one whole file stands there."""

import os
import resource
import stat
import subprocess
import sys

import pytest
import safetensors
import torch
from networks.saved import load, own

import perturbify
from perturbify import checkpoint
from perturbify.checkpoint import container
from perturbify.errors import CheckpointError, OutputExists, PerturbifyError


def test_an_existing_file_is_not_overwritten_by_default(good, path):
    path.write_text("precious")
    with pytest.raises(OutputExists, match="already exists"):
        perturbify.save(own(), path)
    assert path.read_text() == "precious"
    perturbify.save(own(), path, overwrite=True)
    assert load(path)


def test_a_missing_or_unwritable_folder(tmp_path):
    with pytest.raises(PerturbifyError, match="There is no folder"):
        perturbify.save(own(), tmp_path / "missing" / "m.safetensors")
    with pytest.raises(OutputExists, match="is a folder"):
        perturbify.save(own(), tmp_path, overwrite=True)
    # Even root cannot make files in /proc; others are told so by its permissions.
    with pytest.raises(PerturbifyError, match="cannot be written"):
        perturbify.save(own(), "/proc/m.safetensors")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("x")])
@pytest.mark.parametrize("writer", ["save", "annotate"])
def test_a_failed_write_leaves_the_old_file(writer, error, good, path, monkeypatch):
    path.write_bytes(good.read_bytes())

    def half(tensors, filename, metadata=None):
        filename.write_bytes(good.read_bytes()[:1000])
        raise error

    monkeypatch.setattr(container, "save_file", half)
    expected = PerturbifyError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        if writer == "save":
            perturbify.save(own(), path, overwrite=True)
        else:
            checkpoint.annotate(path, trained={})
    assert path.read_bytes() == good.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_full_disk_leaves_the_old_file(good, path):
    path.write_bytes(good.read_bytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(PerturbifyError, match="cannot be written"):
            perturbify.save(own(), path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == good.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_an_invalid_header_is_refused_before_writing(path):
    with pytest.raises(TypeError):
        perturbify.save(own(), path, check={"report": object()})
    with pytest.raises(TypeError):
        perturbify.save(own(), path, nonsense=1)
    with pytest.raises(CheckpointError, match="classes"):
        perturbify.save(own(), path, classes=[1, 2, 3])
    assert list(path.parent.iterdir()) == []


def test_others_may_read_the_file(path):
    before = os.umask(0o022)
    try:
        perturbify.save(own(), path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        path.chmod(0o640)
        checkpoint.annotate(path, trained={})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from perturbify.checkpoint import container

torch.set_num_threads(1)  # a forked child cannot use the parent's threads
path, text = Path(sys.argv[1]), sys.argv[2]
def write(value):
    tensors = {str(i): torch.full((200_000,), float(value)) for i in range(8)}
    container.write(path, tensors, {"perturbify": text, "value": str(value)})

write(0)
started = time.perf_counter()
write(0)
took = time.perf_counter() - started
random.seed(0)
seen = set()
for _ in range(25):
    child = os.fork()
    if child == 0:
        value = int(container.peek(path).metadata["value"])
        while True:
            value += 1
            write(value)
    time.sleep(random.uniform(0, 8 * took))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    value = int(container.peek(path).metadata["value"])
    tensors = container.read(path).tensors
    assert len(tensors) == 8 and all(bool((t == value).all()) for t in tensors.values()), value
    seen.add(value)
assert len(seen) > 3, seen
"""


def test_a_killed_writer_leaves_old_or_new_file(path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path, "{}"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [5, 20, 10], ids=["smaller", "larger", "equal"])
def test_a_file_replaced_mid_read_is_read_whole(path, monkeypatch, size):
    """safetensors opens a file for its header, and then again for its tensors."""

    def write(size: int, value: int) -> None:
        container.write(path, {"x": torch.full((size,), float(value))}, {"value": str(value)})

    def open_again(*args, **kwargs):
        if not replaced:
            replaced.append(write(size, 1))
        return from_file(*args, **kwargs)

    replaced: list[None] = []
    from_file = torch.UntypedStorage.from_file
    monkeypatch.setattr(torch.UntypedStorage, "from_file", open_again)
    write(10, 0)
    found = container.read(path)
    assert replaced
    assert (found.metadata["value"], found.tensors["x"].tolist()) == ("1", [1.0] * size)


def test_two_writers_do_not_disturb_a_reader(good, path):
    """Whoever has the file open while it is replaced reads the old one to its end."""
    perturbify.save(own(), path)
    with safetensors.safe_open(path, "pt") as file:
        before = file.get_tensor("head.weight")
        other = own()
        other.head.weight.data.fill_(7.0)
        perturbify.save(other, path, overwrite=True)
        assert torch.equal(file.get_tensor("head.weight"), before)
    assert (load(path).head.weight == 7).all()
