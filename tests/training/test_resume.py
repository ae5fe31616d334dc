"""A run can be stopped at any moment and goes on as if nothing had happened."""

import json

import pytest
import torch

import perturbify
from perturbify.data.bundle import assemble
from perturbify.errors import CheckpointError, TrainingError
from perturbify.training import finetune, loop, resume, state

TIMES = ("seconds", "images_per_second")
STEPS = 15  # three epochs of five


class Killed(BaseException):
    """As good as SIGKILL for what is on disk: nothing in the library may catch it."""


@pytest.fixture
def start(build, data, make_recipe, tmp_path):
    """Begins a run that saves after every step and is stopped after so many of them."""

    def start(folder, *, stop_after=None, **changes):
        done = 0

        def on_step(_):
            nonlocal done
            done += 1
            if done == stop_after:
                raise Killed

        settings = make_recipe(train__w_steps=2, **{"train__save_minutes": 1e-9} | changes)
        return finetune(build(), settings, tmp_path / folder, data=data, device="cpu", on_step=on_step)

    return start


@pytest.fixture
def go_on(build, data, tmp_path):
    def go_on(folder, **options):
        options = {"model": build(), "data": data, "device": "cpu"} | options
        return resume(tmp_path / folder, **options)

    return go_on


def metrics(folder):
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_run(one, other):
    """Weights, θ, buffers, momenta, and metrics, bit for bit."""
    assert metrics(one.folder) == metrics(other.folder)
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    ours, theirs = state.read(one.folder.state).tensors, state.read(other.folder.state).tensors
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.mark.parametrize("save_minutes", [1e-9, 10])
def test_stopped_after_any_step(save_minutes, start, go_on):
    whole = start("whole", train__save_minutes=save_minutes)
    for stop in range(1, STEPS + 1, 2 if save_minutes < 1 else 7):
        folder = f"stopped{stop}"
        with pytest.raises(Killed):
            start(folder, stop_after=stop, train__save_minutes=save_minutes)
        assert_same_run(go_on(folder), whole)


@pytest.mark.parametrize("method", ["learn2perturb-r", "vanilla", "none"])
def test_with_every_method(method, start, go_on):
    changes = {"method": method, "train__joint": True}
    whole = start("whole", **changes)
    with pytest.raises(Killed):
        start("stopped", stop_after=8, **changes)
    assert_same_run(go_on("stopped"), whole)


def test_stopped_again_and_again(start, go_on):
    whole = start("whole")
    with pytest.raises(Killed):
        start("stopped", stop_after=2)

    def stop(progress):
        if (progress.epoch, progress.step) in ((0, 4), (1, 3)):
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            go_on("stopped", on_step=stop)
    assert_same_run(go_on("stopped"), whole)


@pytest.mark.parametrize("moment", ["state", "metrics", "model", "card"])
def test_stopped_between_the_files_of_an_epochs_end(moment, start, go_on, monkeypatch):
    whole = start("whole", train__save_minutes=10)
    where, name = {
        "state": (loop.state, "save"),
        "metrics": (loop.RunFolder, "write_metrics"),
        "model": (loop.checkpoint, "save"),
        "card": (loop, "write_text"),
    }[moment]
    calls, real = 0, getattr(where, name)
    fatal = {"state": 3, "metrics": 2}.get(moment, 1)  # the first state is saved before the first step

    def dies(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, dies)
        with pytest.raises(Killed):
            start("stopped", train__save_minutes=10)
    resumed = go_on("stopped")
    assert_same_run(resumed, whole)
    assert resumed.folder.model.is_file()


def test_a_finished_run_stays_as_it_is(start, go_on):
    whole = start("whole")
    perturbify.checkpoint.annotate(whole.folder.model, check={"passed": True})
    before = {p.name: p.read_bytes() for p in whole.folder.path.iterdir()}
    again = go_on("whole")
    assert again.metrics == whole.metrics
    assert not again.model.training
    assert_same_run(again, whole)
    assert {p.name: p.read_bytes() for p in whole.folder.path.iterdir()} == before


def test_halves_of_files_are_swept_away(start, go_on, tmp_path):
    with pytest.raises(Killed):
        start("stopped", stop_after=3)
    for name in (".state.safetensors.99.tmp", ".metrics.jsonl.7.tmp", ".other.tmp"):
        (tmp_path / "stopped" / name).write_text("half")
    go_on("stopped")
    assert [p.name for p in (tmp_path / "stopped").glob(".*")] == [".other.tmp"]


def test_a_folder_without_a_run(go_on, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(TrainingError, match=f"{folder} holds no run that could go on"):
            go_on(folder)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def garbled(path):
    path.write_bytes(b"\xff" * 1000)


def foreign(path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, path)


def weights_only(path):
    path.write_bytes((path.parent / "model.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [truncated, garbled, foreign, weights_only])
def test_a_damaged_state_is_one_clear_error(damage, start, go_on, tmp_path):
    start("run", train__epochs=1)
    damage(tmp_path / "run" / "state.safetensors")
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        go_on("run")


def test_other_data_than_it_began_with(start, go_on, data):
    with pytest.raises(Killed):
        start("run", stop_after=3)
    for name, classes in (("other", data.classes), ("tiny", ("x", "y", "z")), ("tiny", (*data.classes, "d"))):
        other = assemble("tiny", [data.train, data.test], data.classes, (6, 6))
        object.__setattr__(other, "name", name)
        object.__setattr__(other, "classes", classes)
        with pytest.raises(TrainingError, match=r"began with 3 classes of tiny; these are"):
            go_on("run", data=other)


def test_without_the_network_that_no_zoo_can_build(start, go_on):
    with pytest.raises(Killed):
        start("run", stop_after=3)
    with pytest.raises(CheckpointError, match="does not say how to build"):
        go_on("run", model=None)


def test_another_network(start, go_on, build):
    with pytest.raises(Killed):
        start("run", stop_after=3)
    with pytest.raises(CheckpointError, match="do not fit its network"):
        go_on("run", model=build(5))
