"""The report as JSON: what other programs may rely on."""

import json

import pytest
import torch
from torch import nn

import perturbify
from perturbify import CheckPlan, check
from perturbify.data.split import MemorySplit

ROW = {
    "attack",
    "noise",
    "n",
    "correct",
    "accuracy",
    "interval",
    "epsilon",
    "steps",
    "step_size",
    "draws",
    "seconds",
}
REPORT = {
    "schema",
    "subject",
    "data",
    "n",
    "seed",
    "epsilon",
    "norm",
    "scored_by",
    "deterministic",
    "noise",
    "passed",
    "rows",
    "machine",
    "about",
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
    return check(net, MemorySplit(images, torch.arange(9) % 3), CheckPlan(steps=2, eot_draws=2), subject='Ω & "x"')


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
    assert made["schema"] == 1 and made["norm"] == "linf" and made["subject"] == 'Ω & "x"'
    assert set(made["machine"]) == {"torch", "python", "device", "threads"}


def test_every_row_carries_its_uncertainty_and_its_adversary(report):
    for row in report.to_dict()["rows"]:
        low, high = row["interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1 and row["accuracy"] == row["correct"] / row["n"]
        assert row["draws"] >= 1 and (row["epsilon"] > 0) == (row["attack"] != "clean")


def test_the_summary_is_the_report_without_the_machine(report):
    summary, whole = report.summary(), report.to_dict()
    assert {k: whole[k] for k in summary if k != "rows"} == {k: v for k, v in summary.items() if k != "rows"}
    for short, row in zip(summary["rows"], whole["rows"], strict=True):
        assert short == {k: v for k, v in row.items() if k != "seconds"}


def test_a_report_fails_where_the_noise_is_not_alive(report):
    noise = report.to_dict()["noise"]
    assert report.passed == (not noise["failures"])
    assert noise["alive"] == (noise["sites"] > 0 and report.passed)
