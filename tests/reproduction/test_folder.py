"""A reproduction's folder: --force removes what the reproduction wrote there, whatever its notes say."""

import json
import threading

import pytest

from perturbify import recipe
from perturbify.errors import OutputExists, PerturbifyError
from perturbify.files import alone, signed
from perturbify.reproduction.folder import ReproductionFolder
from perturbify.training.folder import RunFolder

ABOUT = {
    "table": "table1",
    "budget": 7,
    "networks": ["a", "b"],
    "methods": ["none", "vanilla"],
    "digests": ["abc"],
    "seeds": [0],
    "recipes": {"job": "now"},
}
TABLE = {"schema": 3, "table": "table1", "complete": False, "rows": []}


@pytest.fixture
def folder(tmp_path):
    """A reproduction with one run that has not taken a step, and a table."""
    folder = ReproductionFolder(tmp_path / "out")
    with folder.busy():
        folder.open(ABOUT, force=False)
    begin(folder.path / "job")
    (folder.path / "table1.json").write_text(json.dumps(TABLE))
    (folder.path / "table1.md").write_text(signed("# Table"))
    (folder.path / "table1.png").write_bytes(b"...Software\0perturbify")
    (folder.path / "notes.txt").write_text("mine")
    return folder


def begin(path):
    run = RunFolder(path)
    with run.busy():
        run.begin(recipe.load("smoke"), force=False)
    return run


def contents(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_the_same_command_resumes(folder):
    before = contents(folder.path)
    folder.open(ABOUT, force=False)
    assert contents(folder.path) == before


def earlier(**changed):
    """Notes as an earlier version wrote them: of one seed, and of fewer networks and methods."""
    notes = ABOUT | {"seed": 0, "networks": ["a"], "methods": ["vanilla"], "recipes": {"job": "then"}} | changed
    return json.dumps({key: value for key, value in notes.items() if key != "seeds"})


def test_a_folder_from_an_earlier_version_resumes(folder):
    folder.notes.write_text(earlier())
    before = contents(folder.path)
    folder.open(ABOUT, force=False)
    after = contents(folder.path)
    assert json.loads(after.pop("reproduction.json")) == ABOUT
    before.pop("reproduction.json")
    assert after == before


def test_notes_without_digests_are_accepted(folder):
    notes = json.loads(earlier())
    del notes["digests"]
    folder.notes.write_text(json.dumps(notes))
    folder.open(ABOUT, force=False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 3}, r"other seeds \(3 there, 0 here\)"),
        ({"budget": 3}, r"another budget \(3 there, 7 here\)"),
        ({"methods": ["pni"]}, r"other methods \(pni there, none, vanilla here\)"),
        ({"digests": ["xyz"]}, r"other digests \(xyz there, abc here\)"),
    ],
)
def test_another_command_in_an_earlier_versions_folder(changed, said, folder):
    folder.notes.write_text(earlier(**changed))
    with pytest.raises(OutputExists, match=said):
        folder.open(ABOUT, force=False)


def test_fewer_methods_are_another_command(folder):
    with pytest.raises(OutputExists, match=r"other methods \(none, vanilla there, vanilla here\)"):
        folder.open(ABOUT | {"methods": ["vanilla"]}, force=False)


def test_other_images_under_the_same_name(folder):
    with pytest.raises(OutputExists, match=r"other digests \(abc there, xyz here\)"):
        folder.open(ABOUT | {"digests": ["xyz"]}, force=False)


def test_force_removes_runs_and_tables(folder):
    folder.open(ABOUT | {"seeds": [1]}, force=True)
    assert set(contents(folder.path)) == {"notes.txt", "reproduction.json"}


@pytest.mark.parametrize("name", ["table1.json", "table1.md", "table1.png", "job/README.md", "job/report.md"])
def test_a_users_file_prevents_any_removal(name, folder):
    (folder.path / name).write_text("mine")
    before = contents(folder.path)
    with pytest.raises(OutputExists, match=rf"{name} was changed since a r\w+ wrote it"):
        folder.open(ABOUT | {"seeds": [1]}, force=True)
    assert contents(folder.path) == before


def test_a_folder_that_is_not_a_run_stays(folder):
    run = RunFolder(folder.path / "job")
    run.marker.unlink()
    (run.path / "mine.txt").write_text("mine")
    folder.open(ABOUT | {"seeds": [1]}, force=True)
    assert set(contents(folder.path)) == {"notes.txt", "reproduction.json", "job/recipe.toml", "job/mine.txt"}


@pytest.mark.parametrize("name", ["../elsewhere", "..", ".", "", "a/b", "{elsewhere}", "a\0b"])
def test_notes_that_lead_elsewhere(name, folder, tmp_path):
    elsewhere = begin(tmp_path / "elsewhere")
    (tmp_path / "x.md").write_text(signed("x"))
    for change in ({"recipes": {name.format(elsewhere=elsewhere.path): ""}}, {"table": "../x"}, {"table": None}):
        folder.notes.write_text(json.dumps(ABOUT | change))
        before = contents(tmp_path)
        with pytest.raises(PerturbifyError, match="is not a reproduction's"):
            folder.open(ABOUT, force=True)
        assert contents(tmp_path) == before


def test_a_link_that_leads_elsewhere(folder, tmp_path):
    elsewhere = begin(tmp_path / "elsewhere")
    (folder.path / "job").rename(folder.path / "gone")
    (folder.path / "job").symlink_to(elsewhere.path)
    with pytest.raises(OutputExists, match="job links elsewhere"):
        folder.open(ABOUT | {"seeds": [1]}, force=True)
    assert elsewhere.recipe.is_file()


@pytest.mark.parametrize("text", ["[", "[]", "{}", '{"recipes": []}', '{"recipes": {}, "recipes": {}}', "\ufffd", ""])
def test_invalid_notes(text, folder):
    folder.notes.write_text(text, encoding="utf-8")
    with pytest.raises(PerturbifyError, match=r"is damaged|is not a reproduction's"):
        folder.open(ABOUT, force=True)


def test_a_users_folder_is_refused(tmp_path):
    folder = ReproductionFolder(tmp_path)
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(OutputExists, match="not empty and holds no reproduction"):
        folder.busy()
    assert [p.name for p in tmp_path.iterdir()] == ["letter"]
    with pytest.raises(OutputExists, match="is a file"):
        ReproductionFolder(tmp_path / "letter").busy()


def test_another_process_is_using_the_folder(folder):
    said = []

    def other():
        try:
            with folder.busy():
                said.append("held")
        except PerturbifyError as error:
            said.append(error.message)

    with alone(folder.path, PerturbifyError("")):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert said == [f"Another process is already reproducing in {folder.path}."]
