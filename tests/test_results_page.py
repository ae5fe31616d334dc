"""docs/results.md, docs/real-images.md and the README say what the runs of ``benchmarks.evidence`` gave."""

import json
import tarfile
from pathlib import Path

import pytest

from benchmarks.evidence import page
from perturbify.checks import Report
from perturbify.checks.runs import Ahead
from perturbify.text import percent
from perturbify.training import state

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REAL_IMAGES = (ROOT / "docs" / "real-images.md").read_text(encoding="utf-8")
TEXT = page.PAGE.read_text(encoding="utf-8")
SUITES = ("digits", "cifar", "change")


def test_the_tables_match_the_runs():
    assert page.written(TEXT) == TEXT
    assert all(f"<!-- {suite} -->" in TEXT for suite in SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_the_runs_of_a_table_can_be_compared(suite):
    found = [one for runs in page.read(suite) for one in runs.found]
    assert len({one["W-steps"] for one in found}) == 1
    assert len({(one["report"]["preset"], one["report"]["n"]) for one in found}) == 1


def test_the_text_states_the_right_verdicts():
    verdicts = {suite: {r.verdict for runs in page.read(suite) for r in runs.reports} for suite in SUITES}
    assert verdicts["digits"] == {"established"} and verdicts["cifar"] == {"not established"}
    short = [c for runs in page.read("cifar") for r in runs.reports for c in r.criteria]
    assert {c.outcome for c in short} == {"pass", "not measured"}


@pytest.mark.parametrize(
    ("suite", "name", "baseline"),
    [
        ("cifar", "learn2perturb", "vanilla"),
        ("cifar", "learn2perturb", "learn2perturb-r"),
        ("digits", "learn2perturb", "vanilla"),
        ("digits", "learn2perturb-r", "vanilla"),
    ],
)
def test_the_other_pages_agree(suite, name, baseline):
    runs = {r.name: r for r in page.read(suite)}
    over_images, over_runs = page.ahead(runs[name], runs[baseline])
    said = " ".join(REAL_IMAGES.split())
    assert over_images in said and over_runs in said
    if baseline == "vanilla" and name == "learn2perturb":
        short = " ".join(README.split())
        assert over_images in short and over_runs in short


def test_the_longer_attack_of_one_run_each():
    ours, theirs = (Report.read(ROOT / "docs" / "reports" / f"{name}.json") for name in ("learn2perturb", "pgd"))
    found = Ahead.of([ours.worst], [theirs.worst], shared=False)
    pairs = percent(found.value, found.over_images), percent(ours.headline.ahead.value, ours.headline.ahead.interval)
    assert all(pair.replace("-", "−") in TEXT.replace(" points [", " [") for pair in pairs)


def test_the_packed_training_resumes_as_the_page_says(tmp_path):
    with tarfile.open(max((ROOT / "benchmarks" / "results").glob("*-train.tar.xz"))) as packed:
        packed.extractall(tmp_path, filter="data")
    run = tmp_path / "learn2perturb"
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    position = state.read(run / "state.safetensors").position
    assert (position.epoch, position.step, len(epochs)) == (20, 0, 20) and "20 epochs of warm-up" in TEXT
    assert round(sum(e["seconds"] for e in epochs) / 60) == 6 and "about six minutes" in TEXT
