"""metrics.jsonl says what the state says, whatever became of it meanwhile, and what was in its place is kept."""

import json
import os

import pytest
from networks.runs import Killed, assert_same_run

from perturbify.training import history
from perturbify.training.folder import RunFolder


def epoch(number, **changes):
    return {
        "epoch": number,
        "steps": {"warm-up": 5},
        "images": 26,
        "clean_loss": 1.5 / (1 + number),
        "clean_accuracy": 0.5,
        "adversarial_loss": None,
        "adversarial_accuracy": None,
        "theta": None,
        "lr": {"weights": 0.1},
        "seconds": 1.0,
        "images_per_second": 26.0,
    } | changes


EPOCHS = [epoch(i) for i in range(3)]
LINES = [json.dumps(e) + "\n" for e in EPOCHS]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(LINES))
    return path


def test_intact_metrics_are_left_unchanged(path):
    before = path.stat().st_mtime_ns
    assert history.settle(path, EPOCHS, 3) == EPOCHS == history.read(path)[0]
    assert path.stat().st_mtime_ns == before and len([*path.parent.iterdir()]) == 1


def test_missing_metrics_are_restored(path):
    path.unlink()
    assert history.settle(path, EPOCHS, 3) == EPOCHS
    assert path.read_text() == "".join(LINES)
    assert len([*path.parent.iterdir()]) == 1


def test_killed_between_metrics_and_state(path):
    assert history.settle(path, EPOCHS[:2], 2) == EPOCHS[:2]
    assert path.read_text() == "".join(LINES), "the epoch is done again, and then written"


DAMAGES = {
    "half a line": "".join(LINES) + '{"epoch": 1, "steps": {"W-step": 4}',
    "half a line in the middle": LINES[0] + LINES[1][:20] + "\n" + LINES[2],
    "no last line end": "".join(LINES).rstrip(),
    "a line of another's": "".join(LINES) + "hello\n",
    "an object of another's": "".join(LINES) + '{"epoch": 3}\n',
    "an empty line": LINES[0] + "\n" + "".join(LINES[1:]),
    "a line twice": "".join(LINES) + LINES[2],
    "another order": LINES[1] + LINES[0] + LINES[2],
    "a line less": LINES[0] + LINES[2],
    "a line more": "".join(LINES) + json.dumps(epoch(3)) + "\n" + json.dumps(epoch(4)) + "\n",
    "another figure": LINES[0] + json.dumps(epoch(1, clean_loss=0.1)) + "\n" + LINES[2],
    "NaN": LINES[0] + json.dumps(epoch(1, clean_loss=float("nan"))) + "\n" + LINES[2],
    "a key twice": LINES[0] + LINES[1].replace('{"epoch": 1', '{"epoch": 7, "epoch": 1') + LINES[2],
    "a text for a number": LINES[0] + json.dumps(epoch(1, seconds="1")) + "\n" + LINES[2],
    "θ of another form": LINES[0] + json.dumps(epoch(1, theta="1")) + "\n" + LINES[2],
    "nothing": "",
    "a surrogate": "".join(LINES) + '"\\ud800"\n',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_metrics_are_restored(damage, path):
    path.write_text(DAMAGES[damage])
    with pytest.warns(UserWarning, match=r"kept as metrics\.jsonl\.aside"):
        assert history.settle(path, EPOCHS, 3) == EPOCHS
    assert path.read_text() == "".join(LINES)
    assert path.with_name("metrics.jsonl.aside").read_text() == DAMAGES[damage]


def test_invalid_utf_8_is_set_aside(path):
    for number in ("", "-2", "-3"):
        path.write_bytes(b"\xff\xfe\n")
        with pytest.warns(UserWarning, match=rf"kept as metrics\.jsonl\.aside{number},"):
            assert history.settle(path, EPOCHS, 3) == EPOCHS


KINDS = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a link": lambda path: path.symlink_to("elsewhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_file(kind, path):
    path.unlink()
    KINDS[kind](path)
    with pytest.warns(UserWarning, match="was changed since the run wrote it"):
        assert history.settle(path, EPOCHS, 3) == EPOCHS
    assert path.read_text() == "".join(LINES)
    assert os.path.lexists(path.with_name("metrics.jsonl.aside"))


def test_a_state_without_metrics(path):
    """Of an earlier version: the file is all there is."""
    assert history.settle(path, [], 3) == EPOCHS
    path.write_text(LINES[0] + "?\n" + LINES[2])
    with pytest.warns(UserWarning) as said:
        assert history.settle(path, [], 3) == [EPOCHS[0], EPOCHS[2]]
    assert "The metrics of 1 of 3 epochs are lost." in str(said[1].message)
    assert path.read_text() == LINES[0] + LINES[2]


def test_a_state_with_only_the_newest_metrics(path):
    assert history.settle(path, EPOCHS[1:], 3) == EPOCHS


def test_a_run_resumes_whatever_happened_to_its_metrics(start, continue_run, tmp_path):
    whole = start("whole")
    with pytest.raises(Killed):
        start("stopped", stop_after=12)
    metrics = RunFolder(tmp_path / "stopped").metrics
    metrics.write_bytes(metrics.read_bytes()[:-30])
    with pytest.warns(UserWarning, match="restored from the state"):
        assert_same_run(continue_run("stopped"), whole)
