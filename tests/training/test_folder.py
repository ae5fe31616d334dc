"""A run's folder holds the run's files and the user's, and a run removes its own alone."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks.runs import Killed
from safetensors.torch import save_file

from perturbify.checks import PRESETS, check
from perturbify.cli import reports
from perturbify.errors import OutputExists, PerturbifyError, TrainingError
from perturbify.files import LOCK, beside, is_signed
from perturbify.training.folder import RunFolder

TEXTS = {
    "README.md": "# Mine\n",
    "README.perturbify.md": "mine",
    "report.md": "# Mine\n",
    "report.html": "<p>mine</p>",
    "report.json": '{"mine": 1}',
    "metrics.jsonl": '{"epoch": 0, "loss": 1.5}\n',
    "records-0.jsonl": '{"mine": 1}\n',
    "training.png": "\x89PNG mine",
    "state.before.safetensors": "mine",
    "perturbify-run.json": '{"mine": 1}',
}


@pytest.fixture
def checked(start, tmp_path, data):
    """A finished and checked run."""
    result = start("run", train__save_minutes=10, train__epochs=1, train__warmup_epochs=0)
    plan = PRESETS["quick"]
    report = check(result.model, data, plan, attacks=["fgsm"], folder=result.folder.path)
    reports.write(report, result.folder.path)
    reports.embed(report, result.folder.model)
    return result.folder


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if stat.S_ISREG(p.lstat().st_mode)}


def test_force_removes_everything_a_run_and_check_wrote(checked, make_recipe):
    assert is_signed(checked.card) and all(map(is_signed, checked.pages))
    (checked.path / "notes.txt").write_text("mine")
    with checked.busy():
        checked.begin(make_recipe(), force=True)
    assert {*contents(checked.path)} == {"notes.txt", "perturbify-run.json", "recipe.toml"}
    checked.remove()
    assert {*contents(checked.path)} == {"notes.txt"}


@pytest.mark.parametrize("name", TEXTS)
def test_a_users_file_with_our_name_stays(name, checked, make_recipe):
    checked.path.joinpath(name).unlink(missing_ok=True)
    checked.path.joinpath(name).write_text(TEXTS[name], encoding="utf-8")
    assert_nothing_goes(checked, make_recipe(), name)


KINDS = {
    "a link": lambda path: path.symlink_to("notes.txt"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["README.md", "metrics.jsonl", "model.safetensors", "report.json"])
def test_anything_else_with_our_name_stays(kind, name, checked, make_recipe):
    checked.path.joinpath(name).unlink()
    KINDS[kind](checked.path / name)
    assert_nothing_goes(checked, make_recipe(), name)
    assert os.path.lexists(checked.path / name)


def test_our_files_stay_once_changed(checked, make_recipe):
    for path in (checked.card, *checked.pages, checked.recipe):
        before = path.read_bytes()
        path.write_bytes(before + b"# my notes\n")
        assert_nothing_goes(checked, make_recipe(), path.name)
        path.write_bytes(before)
    save_file({"a": torch.ones(1)}, checked.best)
    assert_nothing_goes(checked, make_recipe(), "best.safetensors")


def assert_nothing_goes(folder, recipe, name):
    before = contents(folder.path)
    for attempt in (lambda: folder.begin(recipe, force=True), folder.remove):
        with pytest.raises(OutputExists, match=rf"{name} was changed since a run wrote it"):
            attempt()
    assert contents(folder.path) == before


def test_a_folder_with_a_recipe_is_no_run(tmp_path, make_recipe, checked):
    project = RunFolder(tmp_path / "project")
    project.path.mkdir()
    shutil.copy(checked.recipe, project.recipe)
    assert not project.is_run
    for name, text in TEXTS.items():
        (project.path / name).write_text(text, encoding="utf-8")
    before = contents(project.path)
    for force in (False, True):
        with pytest.raises(OutputExists, match="not empty and holds no run"):
            project.begin(make_recipe(), force=force)
    with pytest.raises(TrainingError, match="holds no run"):
        project.read_recipe()
    assert contents(project.path) == before


def test_an_earlier_versions_run_is_recognised_by_state(checked):
    checked.marker.unlink()
    assert checked.is_run
    checked.state.unlink()
    assert checked.is_run, "by the state before"
    checked.state_before.unlink()
    assert not checked.is_run
    save_file({"a": torch.ones(1)}, checked.state)
    assert not checked.is_run, "another's file of that name"


def test_a_run_without_a_state_can_be_restarted(tmp_path, make_recipe, start, continue_run):
    folder = RunFolder(tmp_path / "run")
    with folder.busy():
        folder.begin(make_recipe(), force=False)
    with pytest.raises(TrainingError, match=r"stopped before its first step.*with the same command"):
        continue_run("run")
    assert start("run", train__epochs=1, train__warmup_epochs=0).folder.model.is_file()
    folder.state.unlink()
    folder.state_before.unlink()
    with pytest.raises(TrainingError, match=r"its state is gone.*--force"):
        continue_run("run")
    with pytest.raises(OutputExists, match=r"already holds a run.*its state is gone"):
        start("run")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"\xff"), "it is not UTF-8"),
        (lambda path: path.unlink(), "There is no file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "There is no file"),
        (lambda path: (path.unlink(), path.mkdir()), "There is no file"),
    ],
)
def test_a_recipe_that_cannot_be_read(damage, said, checked, continue_run):
    damage(checked.recipe)
    with pytest.raises(TrainingError, match=said):
        continue_run("run")


def test_a_users_card_stays_and_ours_goes_beside(start, continue_run, tmp_path):
    with pytest.raises(Killed):
        start("run", stop_after=2)
    card = tmp_path / "run" / "README.md"
    card.write_text("# Mine\n")
    with pytest.warns(UserWarning, match=r"README\.md is not as perturbify wrote it.*README\.perturbify\.md"):
        folder = continue_run("run").folder
    assert card.read_text() == "# Mine\n"
    assert is_signed(beside(folder.card))


def test_a_users_model_is_kept_under_another_name(start, continue_run, tmp_path):
    with pytest.raises(Killed):
        start("run", stop_after=2)
    model = tmp_path / "run" / "model.safetensors"
    save_file({"mine": torch.ones(1)}, model)
    with pytest.warns(UserWarning, match=r"kept as model\.safetensors\.aside"):
        continue_run("run")
    assert b"mine" in Path(f"{model}.aside").read_bytes()


# Somebody else is at it

HOLD = """
import sys
from pathlib import Path
from perturbify.training.folder import RunFolder
with RunFolder(Path(sys.argv[1])).busy():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked on POSIX systems")
def test_a_live_run_is_left_alone(checked, start, continue_run):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(checked.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        before = contents(checked.path)
        for attempt in (lambda: start("run", force=True), lambda: continue_run("run"), checked.remove):
            with pytest.raises(TrainingError, match=rf"Another process is already training in {checked.path}"):
                attempt()
        assert contents(checked.path) == before
    finally:
        other.kill()
        other.communicate()
    assert (checked.path / LOCK).exists()
    start("run", force=True, train__epochs=1, train__warmup_epochs=0)
    assert not (checked.path / LOCK).exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root, to be somebody else")
def test_another_users_folder(checked):
    """What nobody may write to is refused in one sentence, and stays."""
    for path in (checked.path, *checked.path.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/tmp"):
            path.chmod(0o755)
    script = f"""
import os
from pathlib import Path
from perturbify.training.folder import RunFolder
from perturbify.errors import PerturbifyError
os.setuid(65534)
folder = RunFolder(Path({str(checked.path)!r}))
for attempt in (lambda: folder.check(force=True), lambda: folder.busy().__enter__(), folder.remove):
    try:
        attempt()
    except PerturbifyError as error:
        print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 3 and all(f"{checked.path} cannot be written to" in line for line in said), done.stdout


def test_a_marker_identifies_the_run(checked):
    assert json.loads(checked.marker.read_text()) == {"perturbify-run": 1, "version": "0.1.0"}


def test_invalid_names_are_found_before_the_first_step(start, data, tmp_path):
    object.__setattr__(data, "classes", ("a", "b", "\udcff"))
    with pytest.raises(PerturbifyError, match="UTF-8"):
        start("run")
    assert not (tmp_path / "run").exists()
    object.__setattr__(data, "classes", ("a", "b", "c"))
    with pytest.raises(TrainingError, match="cannot be written to a text file"):
        start("r\udcffn")
    with pytest.raises(TrainingError, match="cannot be written to a text file"):
        start("run", data__root="\udcff")
    assert [*tmp_path.iterdir()] == []
