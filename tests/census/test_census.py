"""The census on real models, in real processes; and that it can say no."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date

import pytest

import perturbify
from perturbify import zoo
from perturbify.census import Row, examine, sample, take
from perturbify.census.pool import versions
from perturbify.census.report import summary, summary_table
from perturbify.census.selection import HARD
from perturbify.census.specimen import at_default, smaller
from perturbify.errors import PerturbifyError

BOTH = {"eval": True, "train": True}


@pytest.mark.parametrize(
    ("name", "calls", "ways"),
    [
        ("timm:test_resnet", {"eval": 15, "train": 15}, (15, 0, 0)),
        ("timm:resnetblur18", {"eval": 24, "train": 24}, (20, 0, 4)),
        ("timm:efficientvit_b0", {"eval": 50, "train": 50}, (50, 0, 0)),
        ("torchvision:googlenet", {"eval": 57, "train": 59}, (59, 0, 0)),
    ],
)
def test_a_model_is_counted_and_wrapped(name, calls, ways):
    row = examine(name)
    assert (row.status, row.error) == ("complete", "")
    assert (row.calls, (row.output, row.inner + row.graph, row.skipped)) == (calls, ways)
    assert row.parity == BOTH


def test_a_model_without_convolutions():
    row = examine("timm:naflexvit_base_patch16_gap")
    assert (row.status, row.calls) == ("no convolutions", {"eval": 0, "train": 0})


def test_inactive_noise_is_detected(monkeypatch):
    real = perturbify.wrap

    def wrap(*args, **kwargs):
        wrapped = real(*args, **kwargs)
        next(perturbify.perturbations(wrapped))[1].enabled = False
        return wrapped

    monkeypatch.setattr(perturbify, "wrap", wrap)
    row = examine("timm:test_resnet")
    assert row.status == "incomplete"
    assert row.noisy == {"eval": 14, "train": 14}


def test_a_wrapped_network_that_differs_is_detected(monkeypatch):
    real = perturbify.wrap

    def wrap(*args, **kwargs):
        wrapped = real(*args, **kwargs)
        next(wrapped.parameters()).data.mul_(1.001)
        return wrapped

    monkeypatch.setattr(perturbify, "wrap", wrap)
    row = examine("timm:test_resnet")
    assert (row.status, row.parity) == ("incomplete", {"eval": False, "train": False})


def test_a_missing_site_is_detected(monkeypatch):
    real = perturbify.wrap

    def wrap(model, **kwargs):
        return real(model, perturbify.PerturbConfig(exclude=("conv_stem",)), **kwargs)

    monkeypatch.setattr(perturbify, "wrap", wrap)
    row = examine("timm:test_efficientnet")
    assert (row.status, row.skipped, row.output) == ("incomplete", 0, row.calls["eval"] - 1)


def test_the_small_variant_makes_the_same_calls():
    default = at_default("timm:vit_tiny_patch16_224")
    small = next(smaller(default))
    assert (default.size, small.size, small.arguments) == ((3, 224, 224), (3, 32, 32), {"img_size": 32})
    assert small.calls == default.calls


def test_a_huge_model_is_checked_with_fewer_layers(monkeypatch):
    monkeypatch.setattr("perturbify.census.examination.MEMORY_LIMIT", 10_000_000)
    row = examine("timm:vit_tiny_patch16_224", memory=1000)
    assert (row.status, row.shrunken) == ("complete", True)
    assert row.checked["arguments"] == {"depth": 2, "img_size": 32}


def test_processes_notes_and_resuming(tmp_path):
    notes = tmp_path / "notes.jsonl"
    names = ["timm:test_resnet", "timm:test_vit", "timm:no_such_model"]
    seen = []
    rows = take(names[:2], notes=notes, progress=lambda p: seen.append((p.row.name, p.done, p.total)))
    assert [r.name for r in rows] == names[:2]
    assert {r.status for r in rows} == {"complete"}
    assert sorted(s[1:] for s in seen) == [(1, 2), (2, 2)]
    with notes.open("a") as file:
        file.write('{"name": "timm:test_vit3", "stat')  # killed while writing
    seen.clear()
    rows = take(names, notes=notes, progress=lambda p: seen.append(p.row.name))
    assert seen == ["timm:no_such_model"]
    assert rows[2].status == "incomplete"
    assert "There is no model" in rows[2].error
    assert [Row(**json.loads(line)) for line in notes.read_text().splitlines()[1:]]
    assert summary(rows)["all"] | {"models": 3, "complete": 2, "incomplete": 1} == summary(rows)["all"]
    assert "incomplete: timm:no_such_model" in summary_table(rows)


def test_notes_of_other_versions_are_kept_apart(tmp_path):
    notes = tmp_path / "notes.jsonl"
    notes.write_text(json.dumps(versions() | {"timm": "0.1"}) + "\n")
    with pytest.raises(PerturbifyError, match=r"is a census of other versions: timm 0\.1 there"):
        take(["timm:test_resnet"], notes=notes)
    for mine in ("my shopping list\n", "one line that does not end", "[1]\n", '"x"\n{"name": "timm:test_vit", "stat'):
        notes.write_text(mine)
        with pytest.raises(PerturbifyError, match="is not a census"):
            take(["timm:test_resnet"], notes=notes)
        assert notes.read_text() == mine
    for nowhere in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(PerturbifyError, match="cannot be used for notes"):
            take(["timm:test_resnet"], notes=nowhere)


def test_what_fails_while_noting_is_raised(monkeypatch):
    def fail(_):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        take(["timm:test_resnet", "timm:test_vit"], progress=fail)


def test_ctrl_c_stops_at_once_without_noting_crashes(tmp_path):
    notes = tmp_path / "notes.jsonl"
    command = [
        sys.executable,
        "-m",
        "perturbify",
        "census",
        "--filter",
        "timm:vit_giant_patch14_*",
        "--notes",
        str(notes),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stderr.readline().decode().startswith("5 models")
    time.sleep(6)  # the workers are at it
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everyone in the group
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.decode().splitlines()[-1]) == (
        130,
        "Interrupted. No file is half written; the same command starts over.",
    )
    assert len(notes.read_text().splitlines()) == 1


def test_a_dying_worker_loses_only_its_own_model(tmp_path, monkeypatch):
    # A worker that kills itself at the first model whose name says so, as the kernel does for memory.
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, signal, sys\n"
        "for line in sys.stdin:\n"
        "    if 'dies' in line: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    print(json.dumps({'name': line.strip(), 'status': 'complete'}), flush=True)\n"
    )
    monkeypatch.setattr("perturbify.census.pool.WORKER", (str(worker),))
    rows = take(["timm:a", "timm:dies", "timm:b"], workers=1)
    assert [r.status for r in rows] == ["complete", "incomplete", "complete"]
    assert f"ended with status {-signal.SIGKILL}" in rows[1].error


def test_a_sample_always_includes_the_hard_models():
    names = zoo.model_names("timm:*") + zoo.model_names("torchvision:*")
    drawn = sample(names, 60, 1)
    assert len(set(drawn)) == 60
    assert set(HARD) < set(drawn)
    assert drawn == sample(names, 60, 1) != sample(names, 60, 2)
    assert sample(names, 2, 1) == list(HARD[:2])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sixty_current_models():
    names = zoo.model_names("timm:*") + zoo.model_names("torchvision:*")
    rows = take(sample(names, 60, date.today().toordinal()), workers=os.cpu_count() or 1)
    assert [f"{r.name}: {r.error}" for r in rows if r.status == "incomplete"] == []
