"""A run outlives what happens to its machine: signals, full disks, damaged files."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from networks.runs import Killed, assert_same_run
from PIL import Image
from safetensors.torch import save_file

from perturbify.checkpoint import container
from perturbify.errors import CheckpointError, PerturbifyError, TrainingError
from perturbify.training import state
from perturbify.training.folder import RunFolder


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut off": truncate,
    "a bit flipped": flip_a_bit,
    "gone": os.remove,
    "garbled": lambda path: path.write_bytes(b"\xff" * 1000),
    "foreign": lambda path: save_file({"a": torch.ones(1)}, path),
}


@pytest.fixture
def stopped(start, tmp_path):
    """A run that was killed after eight steps."""
    with pytest.raises(Killed):
        start("stopped", stop_after=8)
    return RunFolder(tmp_path / "stopped")


def position(path):
    found = state.read(path).position
    return found.epoch, found.step


def test_the_last_two_states_are_kept(stopped):
    assert (position(stopped.state_before), position(stopped.state)) == ((1, 2), (1, 3))
    assert stopped.state.stat().st_ino != stopped.state_before.stat().st_ino


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_falls_back_to_the_previous(damage, stopped, start, continue_run):
    whole = start("whole")
    DAMAGES[damage](stopped.state)
    with pytest.warns(UserWarning, match=r"state\.safetensors.*Resuming from the previous state, epoch 1, step 2"):
        assert_same_run(continue_run("stopped"), whole)


@pytest.mark.parametrize("damage", DAMAGES)
def test_two_damaged_states_are_an_error(damage, stopped, continue_run):
    DAMAGES[damage](stopped.state)
    truncate(stopped.state_before)
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        continue_run("stopped")


def test_resuming_from_the_previous_state_keeps_it_safe(stopped, start, continue_run, monkeypatch):
    """The damaged one must not be put over the good one by the next save, should that fail."""
    whole = start("whole")
    flip_a_bit(stopped.state)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.warns(UserWarning), pytest.raises(PerturbifyError):
        patch.setattr(container, "save_file", full)
        continue_run("stopped")
    assert_same_run(continue_run("stopped"), whole)


def test_without_hard_links_the_previous_state_is_copied(start, continue_run, monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    with pytest.raises(Killed):
        start("stopped", stop_after=8)
    assert position(RunFolder(tmp_path / "stopped").state_before) == (1, 2)


def test_a_full_disk_loses_nothing_that_was_saved(start, continue_run, monkeypatch, tmp_path):
    whole = start("whole")
    real, calls = container.save_file, []

    def full(tensors, path, **more):
        calls.append(path)
        if len(calls) == 8:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(tensors, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(container, "save_file", full)
        with pytest.raises(PerturbifyError, match=r"state\.safetensors cannot be written: No space left on device"):
            start("stopped")
    assert position(RunFolder(tmp_path / "stopped").state) == (1, 1)
    assert_same_run(continue_run("stopped"), whole)


def test_a_disk_that_is_really_full(start, continue_run, tmp_path):
    """By the system's own limit; what is written is written by safetensors, and by us."""
    whole = start("whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step(progress):
        if (progress.epoch, progress.step) == (1, 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))

    with pytest.raises(Killed):
        start("stopped", stop_after=5)
    try:
        with pytest.raises(TrainingError, match=r"cannot be written: .*arge") as raised:
            continue_run("stopped", on_step=on_step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    how = f"perturbify finetune --resume {tmp_path / 'stopped'}"
    assert raised.value.hint == f"The last state is kept. Free some space, then resume: {how}"
    assert position(RunFolder(tmp_path / "stopped").state) == (1, 2)
    assert_same_run(continue_run("stopped"), whole)


def test_a_disk_that_is_full_at_the_end(start, continue_run, tmp_path):
    whole = start("whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step(progress):
        if (progress.epoch, progress.step) == (2, 4):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))

    with pytest.raises(Killed):
        start("stopped", stop_after=5)
    try:
        with pytest.raises(TrainingError, match=r"model\.safetensors cannot be written: .*arge") as raised:
            continue_run("stopped", on_step=on_step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "resume: perturbify finetune --resume" in raised.value.hint
    resumed = continue_run("stopped")
    assert_same_run(resumed, whole)
    assert resumed.folder.model.is_file() and resumed.folder.card.is_file()


def asking(number, at, times=1):
    """A callback that sends this process a signal after step ``at`` of epoch 1."""

    def on_step(progress):
        if (progress.epoch, progress.step) == (1, at):
            for _ in range(times):
                os.kill(os.getpid(), number)

    return on_step


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_lets_the_step_finish_and_saves(number, ends, start, continue_run, tmp_path):
    whole = start("whole", train__save_minutes=10)
    with pytest.raises(Killed):
        start("stopped", stop_after=5, train__save_minutes=10)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ends) as raised:
        continue_run("stopped", on_step=asking(number, at=1))
    assert number == signal.SIGINT or raised.value.code == 143
    assert position(RunFolder(tmp_path / "stopped").state) == (1, 3), "the step after the signal is done and kept"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_same_run(continue_run("stopped"), whole)


def test_sigterm_may_come_twice(start, continue_run, tmp_path):
    """From torchrun and from Slurm, for instance."""
    with pytest.raises(Killed):
        start("stopped", stop_after=5, train__save_minutes=10)
    with pytest.raises(SystemExit):
        continue_run("stopped", on_step=asking(signal.SIGTERM, at=1, times=2))
    assert position(RunFolder(tmp_path / "stopped").state) == (1, 3)


def test_a_signal_during_the_last_step_counts(start, continue_run):
    whole = start("whole")
    with pytest.raises(Killed):
        start("stopped", stop_after=12)

    def on_step(progress):
        if (progress.epoch, progress.step) == (2, 4):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        continue_run("stopped", on_step=on_step)
    assert_same_run(continue_run("stopped"), whole)


def test_sigterm_to_the_group_spares_decoding_workers(tmp_path):
    """torchrun and systemd send it to every process; images that are decoded come from workers."""
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(150):
                image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(image).save(tmp_path / "images" / part / name / f"{i}.png")
    small = ("--set", "data.image_size=32", "--set", "data.train_images=300", "--set", "train.epochs=200")
    command = ("finetune", "--recipe", "smoke", "--data", "images", *small, "--no-check", "-o", "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *command],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    saved = tmp_path / "run" / "state.safetensors"
    while not saved.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(1.5)
    assert process.poll() is None, "it was over before the signal came"
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said.decode()
    assert position(saved) > (0, 0)


def test_the_second_ctrl_c_is_obeyed_at_once(start, continue_run, tmp_path):
    with pytest.raises(Killed):
        start("stopped", stop_after=5, train__save_minutes=10)
    with pytest.raises(KeyboardInterrupt):
        continue_run("stopped", on_step=asking(signal.SIGINT, at=1, times=2))
    assert position(RunFolder(tmp_path / "stopped").state) == (1, 0), "the last one that was saved"


def test_the_callers_own_handler_stays(start):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        start("whole", stop_after=None)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


def test_a_handler_that_yields_is_put_back(start, continue_run, tmp_path):
    """As the command line's does, so that the step is finished and the state saved."""

    class Handler:
        gives_way = True

        def __call__(self, *_):
            raise AssertionError("it was not to be asked")

    handler = Handler()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Killed):
            start("stopped", stop_after=5, train__save_minutes=10)
        with pytest.raises(SystemExit):
            continue_run("stopped", on_step=asking(signal.SIGTERM, at=1))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert position(RunFolder(tmp_path / "stopped").state) == (1, 3)


def test_a_run_in_another_thread_leaves_signals_alone(start):
    finished = []
    thread = threading.Thread(target=lambda: finished.append(start("whole")))
    thread.start()
    thread.join()
    assert len(finished) == 1
