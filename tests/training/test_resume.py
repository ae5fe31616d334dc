"""A run can be stopped at any moment and goes on as if nothing had happened."""

import pytest
from networks.runs import Killed, assert_same_run

import perturbify
from perturbify.data.bundle import assemble
from perturbify.errors import CheckpointError, TrainingError
from perturbify.training import run

STEPS = 15  # three epochs of five


@pytest.mark.parametrize("save_minutes", [1e-9, 10])
def test_stopped_after_any_step(save_minutes, start, continue_run):
    whole = start("whole", train__save_minutes=save_minutes)
    for stop in range(1, STEPS + 1, 2 if save_minutes < 1 else 7):
        folder = f"stopped{stop}"
        with pytest.raises(Killed):
            start(folder, stop_after=stop, train__save_minutes=save_minutes)
        assert_same_run(continue_run(folder), whole)


@pytest.mark.parametrize("method", ["learn2perturb-r", "vanilla", "none"])
def test_with_every_method(method, start, continue_run):
    changes = {"method": method, "train__joint": True}
    whole = start("whole", **changes)
    with pytest.raises(Killed):
        start("stopped", stop_after=8, **changes)
    assert_same_run(continue_run("stopped"), whole)


def test_stopped_again_and_again(start, continue_run):
    whole = start("whole")
    with pytest.raises(Killed):
        start("stopped", stop_after=2)

    def stop(progress):
        if (progress.epoch, progress.step) in ((0, 4), (1, 3)):
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            continue_run("stopped", on_step=stop)
    assert_same_run(continue_run("stopped"), whole)


@pytest.mark.parametrize("moment", ["state", "metrics", "model", "card"])
def test_stopped_between_the_files_at_epoch_end(moment, start, continue_run, monkeypatch):
    whole = start("whole", train__save_minutes=10)
    where, name = {
        "state": (run.state, "save"),
        "metrics": (run.RunFolder, "write_metrics"),
        "model": (run.checkpoint, "save"),
        "card": (run, "write_own"),
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
    resumed = continue_run("stopped")
    assert_same_run(resumed, whole)
    assert resumed.folder.model.is_file() and resumed.folder.card.is_file()


def test_resuming_a_finished_run_changes_nothing(start, continue_run):
    whole = start("whole")
    check = {"dataset": "tiny", "n": 9, "epsilon": 0.1, "rows": [], "criteria": {}, "passed": True}
    perturbify.checkpoint.annotate(whole.folder.model, check=check)
    before = {p.name: p.read_bytes() for p in whole.folder.path.iterdir()}
    again = continue_run("whole")
    assert again.metrics == whole.metrics
    assert not again.model.training
    assert_same_run(again, whole)
    assert {p.name: p.read_bytes() for p in whole.folder.path.iterdir()} == before


def test_half_written_files_are_removed(start, continue_run, tmp_path):
    with pytest.raises(Killed):
        start("stopped", stop_after=3)
    for name in (".state.safetensors.99.tmp", ".metrics.jsonl.7.tmp", ".other.tmp"):
        (tmp_path / "stopped" / name).mkdir()
        (tmp_path / "stopped" / name / "half").write_text("half")
    continue_run("stopped")
    assert [p.name for p in (tmp_path / "stopped").glob(".*")] == [".other.tmp"]


def test_a_folder_without_a_run(continue_run, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(TrainingError, match=f"{folder} holds no run that can be resumed"):
            continue_run(folder)


def test_other_data_than_it_began_with(start, continue_run, data):
    with pytest.raises(Killed):
        start("run", stop_after=3)
    for name, classes in (("other", data.classes), ("tiny", ("x", "y", "z")), ("tiny", (*data.classes, "d"))):
        other = assemble("tiny", [data.train, data.test], data.classes, (6, 6))
        object.__setattr__(other, "name", name)
        object.__setattr__(other, "classes", classes)
        with pytest.raises(TrainingError, match=r"began with 3 classes of tiny; these are"):
            continue_run("run", data=other)


def test_resuming_needs_a_network_the_zoo_cannot_build(start, continue_run):
    with pytest.raises(Killed):
        start("run", stop_after=3)
    with pytest.raises(CheckpointError, match="does not say how to build"):
        continue_run("run", model=None)


def test_another_network(start, continue_run, build):
    with pytest.raises(Killed):
        start("run", stop_after=3)
    with pytest.raises(CheckpointError, match="does not fit its network"):
        continue_run("run", model=build(5))


def test_a_recipe_changed_since_is_refused(start, continue_run, tmp_path):
    start("run")
    recipe = tmp_path / "run" / "recipe.toml"
    as_it_was = recipe.read_text(encoding="utf-8")
    changed = as_it_was.replace("batch_size = 5", "batch_size = 7", 1).replace("gamma = 0.0001", "gamma = 0.1", 1)
    assert changed != as_it_was
    recipe.write_text(changed, encoding="utf-8")
    with pytest.raises(TrainingError, match=r"recipe\.toml was changed since the run began: train\.batch_size"):
        continue_run("run")
    recipe.write_text(as_it_was.replace("save_minutes = ", "save_minutes = 1"), encoding="utf-8")
    continue_run("run")
