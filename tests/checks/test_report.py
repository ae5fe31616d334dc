"""The report as JSON: what other programs may rely on."""

import json

import pytest
import torch
from torch import nn

import perturbify
from perturbify import CheckPlan, check
from perturbify.checks import Criterion, Evidence, Report
from perturbify.data.split import MemorySplit
from perturbify.errors import CheckError

ROW = {
    *("attack", "crafted_on", "noise", "norm", "epsilon", "settings", "n", "draws", "accuracy", "interval", "majority"),
    *("survival", "clean_survival", "unperturbed", "claimed", "distance", "forward", "gradient", "seconds", "points"),
    "network",
}
REPORT = {
    *("schema", "name", "architecture", "dataset", "eps", "clean_acc", "reported", "number_forward_passes", "norm"),
    *("deterministic", "footnote", "strongest_attack", "noise_mode", "classes", "preset", "n", "seed", "passed"),
    *("noise", "rows", "criteria", "remarks", "machine", "about", "example_attack", "examples"),
}
NOISE = {"convolutions", "perturbed", "skipped", "sites", "dead", "below_floor", "alive", "failures"}


@pytest.fixture(scope="module", params=["plain", "noisy", "dead"])
def report(request):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    if request.param != "plain":
        net = perturbify.wrap(net, example_input=torch.rand(2, 3, 8, 8))
    if request.param == "dead":
        net.get_submodule("0").perturb.theta.data.fill_(float("nan"))
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    return check(net, MemorySplit(images, torch.arange(9) % 3), CheckPlan(steps=2, eot_draws=2), name='Ω & "x"')


def test_it_survives_json(report):
    written = report.to_json()
    assert written.endswith("}\n")
    assert json.loads(written, parse_constant=pytest.fail) == report.to_dict()
    assert json.loads(json.dumps(report.summary())) == report.summary()


def test_its_keys(report):
    made = report.to_dict()
    assert set(made) == REPORT
    assert set(made["noise"]) == NOISE
    assert all(set(row) == ROW for row in made["rows"])
    assert made["schema"] == 2 and made["norm"] == "linf" and made["name"] == 'Ω & "x"'
    assert set(made["machine"]) == {"torch", "python", "device", "threads"}
    assert (made["footnote"] is None) == made["deterministic"]


def test_it_can_be_read_back(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert Report.read(path) == report
    assert Report.read(path).to_json() == report.to_json()


@pytest.mark.parametrize(
    "damage", ["not there", "no json", "a list", "another schema", "a field less", "a row less a field"]
)
def test_what_is_no_report_is_refused(report, tmp_path, damage):
    path, values = tmp_path / "report.json", report.to_dict()
    if damage == "another schema":
        values["schema"] = 1
    if damage == "a field less":
        del values["eps"]
    if damage == "a row less a field":
        del values["rows"][0]["draws"]
    if damage != "not there":
        path.write_text({"no json": "{", "a list": "[]"}.get(damage) or json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckError, match=r"not a report|damaged"):
        Report.read(path)


def test_every_row_carries_its_uncertainty_and_its_adversary(report):
    for row in report.to_dict()["rows"]:
        low, high = row["interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert row["draws"] == (20 if row["noise"] == "on" else 1)
        assert (row["settings"] != {}) == (row["norm"] is not None) == (row["claimed"] is not None)
        assert row["survival"]["1"] == pytest.approx(row["accuracy"])


def test_the_strongest_attack_is_within_the_radius(report):
    made = report.to_dict()
    bounded = [
        r for r in report.rows if r.norm == "linf" and r.epsilon <= report.epsilon and r.noise == report.clean.noise
    ]
    assert made["reported"] == round(100 * min(r.accuracy for r in bounded), 2)
    assert made["clean_acc"] == round(100 * report.rows[0].accuracy, 2)


def test_the_summary_holds_the_rows_and_the_verdicts(report):
    summary, whole = report.summary(), report.to_dict()
    assert [r["accuracy"] for r in summary["rows"]] == [r["accuracy"] for r in whole["rows"]]
    assert summary["criteria"] == {c["name"]: c["verdict"] for c in whole["criteria"]}
    assert (summary["dataset"], summary["n"], summary["passed"]) == (whole["dataset"], whole["n"], whole["passed"])


@pytest.mark.parametrize(
    ("estimate", "interval", "verdict"),
    [
        (-0.3, (-0.4, -0.2), "pass"),
        (0.0, (-0.02, 0.02), "pass"),
        (0.01, (-0.02, 0.04), "undecided"),
        (0.015, (0.005, 0.025), "undecided"),  # beyond the limit for sure, but within what counts as equal
        (0.03, (0.01, 0.05), "fail"),
        (0.5, (0.4, 0.6), "fail"),
    ],
)
def test_a_verdict_follows_from_the_interval(estimate, interval, verdict):
    evidence = Evidence("one less the other", estimate, interval, limit=0.0, tolerance=0.02)
    assert evidence.verdict == verdict
    passing = Evidence("another", -1.0, (-1.0, -1.0), limit=0.0, tolerance=0.0)
    assert Criterion("c", "w", (passing, evidence)).verdict == verdict
    assert Criterion("c", "w", ()).verdict == "undecided"


def test_a_report_fails_where_the_noise_is_not_alive(report):
    noise = report.to_dict()["noise"]
    assert noise["alive"] == (noise["sites"] > 0 and not noise["failures"])
    assert not (noise["failures"] and report.passed)
