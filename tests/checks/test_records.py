"""The records of a check are counted as they were written, or not at all."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perturbify.checks.records import Record, Records, is_ours
from perturbify.errors import CheckError

ABOUT = {"torch": "2", "plan": {"seed": 0}, "attacks": [], "images": "abc", "networks": ["def"]}
KEPT = [
    Record("pgd", batch, 7, [0, 1], ["01", "11"], [True, True], [0, 2], 2, [False, True], [0.1, 0.2], [1.0, 1.5], 0.25)
    for batch in range(3)
]


@pytest.fixture
def path(tmp_path):
    records = Records(tmp_path, ABOUT)
    for record in KEPT:
        records.add(record)
    return tmp_path / "records-0.jsonl"


def read(path, about=ABOUT):
    return Records(path.parent, about).of("pgd")


def test_stored_records_are_found(path):
    assert read(path) == KEPT and is_ours(path)
    assert json.loads(path.read_text().splitlines()[0]) == ABOUT


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_harmless_or_detected(path, data):
    """A blank for another blank, for instance, changes nothing."""
    written = path.read_bytes()
    at = data.draw(st.integers(0, len(written) - 2))
    other = data.draw(st.integers(0, 255).filter(lambda b: b != written[at]))
    path.write_bytes(written[:at] + bytes([other]) + written[at + 1 :])
    try:
        assert read(path) == KEPT
    except CheckError as error:
        assert "damaged: line" in error.message or "records of another check" in error.message
    finally:
        path.write_bytes(written)


def line(path, number, change):
    lines = path.read_text().splitlines(keepends=True)
    values = json.loads(lines[number])
    change(values)
    lines[number] = json.dumps(values) + "\n"
    path.write_text("".join(lines))


DAMAGES = {
    "a better answer": lambda path: line(path, 2, lambda v: v["right"].__setitem__(0, "11")),
    "another batch": lambda path: line(path, 2, lambda v: v.update(batch=9)),
    "no seal": lambda path: line(path, 2, lambda v: v.pop("seal")),
    "a field more": lambda path: line(path, 2, lambda v: v.update(more=1)),
    "a field less": lambda path: line(path, 2, lambda v: v.pop("linf")),
    "NaN": lambda path: line(path, 2, lambda v: v.update(seconds=float("nan"))),
    "a foreign line": lambda path: path.write_text(path.read_text() + "hello\n"),
    "a foreign object": lambda path: path.write_text(path.read_text() + "{}\n"),
    "an empty line": lambda path: path.write_text(path.read_text() + "\n"),
    "no UTF-8": lambda path: path.write_bytes(path.read_bytes() + b"\xff\n"),
    "a key twice": lambda path: path.write_text(path.read_text().replace('"batch": 1,', '"batch": 8, "batch": 1,')),
    "no first line": lambda path: path.write_text(path.read_text().split("\n", 1)[1]),
    "a foreign file": lambda path: path.write_text("hello\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(damage, path):
    DAMAGES[damage](path)
    before = path.read_bytes()
    with pytest.raises(CheckError, match=r"records-0\.jsonl is damaged: line [1-5] is not as a check writes it"):
        read(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("key", ABOUT)
def test_another_check(key, path):
    with pytest.raises(CheckError, match=f"the records of another check, which differs in {key}"):
        read(path, ABOUT | {key: "other"})


def test_a_line_from_another_check(path, tmp_path):
    (tmp_path / "other").mkdir()
    Records(tmp_path / "other", ABOUT | {"images": "xyz"}).add(KEPT[0])
    path.write_text(path.read_text() + (tmp_path / "other" / "records-0.jsonl").read_text().splitlines()[1] + "\n")
    with pytest.raises(CheckError, match="damaged: line 5"):
        read(path)


@pytest.mark.parametrize("kept", [0, 10, 200, -20, -1])
def test_a_line_cut_by_a_kill_is_redone(kept, path):
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    records = Records(path.parent, ABOUT)
    for record in KEPT:
        if (record.case, record.batch) not in records:
            records.add(record)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_no_file(kind, path):
    path.unlink()
    kind(path)
    with pytest.raises(CheckError, match="is not a file"):
        read(path)
    assert not is_ours(path)


def test_unrelated_files_are_ignored(path):
    for name in ("records-mine.jsonl", "records-0.jsonl.bak", "records-.jsonl"):
        path.with_name(name).write_text("hello\n")
    assert read(path) == KEPT


def test_a_full_disk(tmp_path):
    (tmp_path / "records-0.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckError, match=r"records-0\.jsonl (is not a file|cannot be written)"):
        Records(tmp_path, ABOUT).add(KEPT[0])
