"""The report as JSON: what other programs may rely on."""

import copy
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks.results import ALIVE, EPSILON, QUIET, drawn, first, result
from torch import nn

import perturbify
from perturbify import CheckPlan, check
from perturbify.checks import Criterion, Evidence, Report
from perturbify.checks.report import SCHEMA, _at_least
from perturbify.data.split import MemorySplit
from perturbify.errors import CheckError

RESULT = {
    *("id", "attack", "role", "on", "source", "network", "noise", "norm", "epsilon", "settings", "answers", "attacked"),
    *("n", "draws", "accuracy", "interval", "shared", "majority", "survival", "unperturbed", "claimed", "distance"),
    *("forward", "gradient", "seconds", "points"),
}
REPORT = {
    *("schema", "name", "architecture", "dataset", "eps", "clean_acc", "reported", "number_forward_passes", "norm"),
    *("deterministic", "footnote", "noise_mode", "classes", "preset", "n", "seed", "verdict", "status", "headline"),
    *("resubmissions", "baseline", "noise", "results", "criteria", "remarks", "machine", "about", "example_attack"),
    "examples",
}
HEADLINE = {"clean", "worst", "best", "best_attack", "noise_adds", "ahead"}
NOISE = {"convolutions", "perturbed", "skipped", "sites", "dead", "below_floor", "alive", "failures"}
EXAMPLE = {"label", "clean", "adversarial", "difference", "clean_answer", "answer", "clean_accuracy", "accuracy"}
CRITERION = {"name", "why", "core", "outcome", "detail", "evidence"}
EVIDENCE = {"statement", "estimate", "interval", "limit", "tolerance", "outcome"}


@pytest.fixture(scope="module", params=["plain", "noisy", "dead"])
def report(request):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    if request.param != "plain":
        net = perturbify.wrap(net, example_input=torch.rand(2, 3, 8, 8))
    if request.param == "dead":
        net.get_submodule("0").perturb.theta.data.fill_(float("nan"))
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    plan = CheckPlan(steps=2, gradients=4, tries=2, square_queries=8)
    against = ("baseline", nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    return check(net, MemorySplit(images, torch.arange(9) % 3), plan, name='Ω & "x"', against=against)


def made(*results, criteria=(), **changes):
    """A report by hand."""
    values = {
        **{"name": "x", "architecture": "X", "dataset": "d", "classes": 10, "preset": "quick", "seed": 0},
        **{"n": results[0].n, "epsilon": EPSILON, "deterministic": results[0].draws == 1, "noise_mode": "none"},
        **{"liveness": QUIET, "results": results, "criteria": criteria, "machine": {}},
    }
    return Report(**values | changes)


def test_it_survives_json(report):
    written = report.to_json()
    assert written.endswith("}\n")
    assert json.loads(written, parse_constant=pytest.fail) == report.to_dict()


def test_its_summary_is_json(report):
    assert json.loads(json.dumps(report.summary())) == report.summary()


def test_its_keys(report):
    values = report.to_dict()
    assert set(values) == REPORT
    assert set(values["noise"]) == NOISE and set(values["headline"]) == HEADLINE
    assert all(set(r) == RESULT for r in values["results"])
    assert all(set(c) == CRITERION for c in values["criteria"])
    assert all(set(e) == EVIDENCE for c in values["criteria"] for e in c["evidence"])
    assert values["examples"] and all(set(e) == EXAMPLE for e in values["examples"])
    assert values["schema"] == 4 and values["norm"] == "linf" and values["name"] == 'Ω & "x"'
    assert set(values["machine"]) == {"torch", "python", "device", "threads"}
    assert (values["footnote"] is None) == values["deterministic"]
    assert values["status"] == {"established": 0, "failed": 3, "not established": 4}[values["verdict"]]


def test_the_page_has_every_field():
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    documented = REPORT | RESULT | HEADLINE | NOISE | EXAMPLE | CRITERION | EVIDENCE
    assert {field for field in documented if f"`{field}`" not in page} == set()
    assert f"version of this format: {SCHEMA}" in page


def test_it_can_be_read_back(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert Report.read(path) == report
    assert Report.read(path).to_json() == report.to_json()


def test_derived_values_are_recomputed(report):
    values = report.to_dict()
    values |= {"verdict": "established", "status": 0, "reported": 99.9, "headline": None, "resubmissions": {}}
    values["results"][0] |= {"accuracy": 1.0, "interval": [1, 1]}
    values["criteria"][0]["outcome"] = "pass"
    assert Report.from_dict(values).to_json() == report.to_json()


DAMAGE = {
    "another schema": lambda v: v.update(schema=2),
    "no schema": lambda v: v.pop("schema"),
    "a field less": lambda v: v.pop("eps"),
    "a result less a field": lambda v: v["results"][0].pop("shared"),
    "answers that are none": lambda v: v["results"][0]["answers"].update(bits="%"),
    "an interval of one end": lambda v: v["results"][0]["majority"].update(interval=[0.5]),
    "a criterion less its evidence": lambda v: v["criteria"][0].pop("evidence"),
    "a criterion of words": lambda v: v["criteria"].append("passes"),
    "noise less a field": lambda v: v["noise"].pop("sites"),
    "noise of words": lambda v: v.update(noise="alive"),
    "an example too much": lambda v: v["examples"].append({"url": "x"}),
    "results of words": lambda v: v.update(results="all"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_report_is_refused(report, damage):
    values = copy.deepcopy(report.to_dict())
    DAMAGE[damage](values)
    with pytest.raises(CheckError, match=r"not a report of schema 4|damaged") as caught:
        Report.from_dict(values)
    assert caught.value.hint == "Run the check again."


@pytest.mark.parametrize("text", [None, "{", "[]", "3", '{"schema": 2}', b"\xff\xfe"])
def test_other_objects_are_refused(text, tmp_path):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckError, match="not a report"):
        Report.read(path)


def test_every_result_has_its_uncertainty_and_adversary(report):
    for r in report.to_dict()["results"]:
        low, high = r["interval"]
        assert 0 <= low <= r["accuracy"] <= high <= 1
        assert r["draws"] == (20 if r["noise"] == "on" and r["on"] != "known" else 1)
        assert (r["settings"] != {}) == (r["norm"] is not None) == (r["claimed"] is not None)
        if r["survival"]:
            assert r["survival"]["1"]["value"] == pytest.approx(r["accuracy"])


def test_the_summary_holds_the_results_and_the_verdicts(report):
    summary, whole = json.loads(json.dumps(report.summary())), report.to_dict()
    assert [r["accuracy"] for r in summary["rows"]] == [r["accuracy"] for r in whole["results"]]
    assert summary["criteria"] == {c["name"]: c["outcome"] for c in whole["criteria"]}
    assert {k: summary[k] for k in ("dataset", "n", "verdict")} == {k: whole[k] for k in ("dataset", "n", "verdict")}
    assert summary["worst_case"] == whole["headline"]["worst"]


def test_a_report_with_dead_noise_fails(report):
    noise = report.to_dict()["noise"]
    assert noise["alive"] == (noise["sites"] > 0 and not noise["failures"])
    assert not noise["failures"] or report.verdict == "failed"
    if noise["failures"]:
        assert any(f.startswith("the noise is alive: ") for f in report.failures)


# What it comes down to


def test_the_headline_is_the_worst_case_per_image():
    a, b = np.arange(256) < 128, (np.arange(256) < 64) | (np.arange(256) >= 200)
    found = made(result("clean", first(250), "clean"), result("a", a), result("b", b))
    head = found.headline
    assert head.accuracy == head.worst.value == 64 / 256
    assert (head.best.value, head.best_attack) == (b.mean(), "b"), "of those by themselves, the least"
    assert head.clean.value == 250 / 256 and head.noise_adds is None and head.ahead is None
    assert found.to_dict()["reported"] == 25.0 and found.to_dict()["clean_acc"] == 97.66
    assert found.result("a").accuracy == 0.5 and found.result("c") is None


def test_without_attacks_the_worst_case_is_clean_accuracy():
    found = made(result("clean", first(250), "clean"))
    assert found.headline.worst == found.headline.clean and found.headline.best is None


def twin(id, k, **changes):
    return result(id, first(k), "other", on="twin", noise="off", **changes)


def test_the_effect_of_the_noise():
    """The worst case of the same attacks with it and without; also where it takes."""
    clean = result("clean", first(256, draws=20), "clean")
    on = [
        result("pgd", first(120, draws=20)),
        result("margin", first(100, draws=20)),
        result("square", first(0, 256, 20)),
    ]
    off = [twin("twin-clean", 250, norm=None, epsilon=None), twin("twin-pgd", 130), twin("twin-margin", 110)]
    assert made(clean, *on, *off).headline.noise_adds.value == pytest.approx(-10 / 256)
    assert made(clean, *on, *off[:2]).headline.noise_adds is None, "not measured"
    low, high = made(clean, *on, *off).headline.noise_adds.interval
    assert low < -10 / 256 < high


def test_resubmission_figures_are_ordered_and_within_their_intervals():
    right = drawn(np.linspace(0, 1, 256), 20)
    found = made(result("clean", np.ones((256, 20), bool), "clean"), result("pgd", right)).resubmissions
    assert set(found) == {
        *("one answer", "the majority of 20", "all of 5", "all of 10", "at least 8 of 10", "at least 1 of 10"),
    }
    values = {k: f.value for k, f in found.items()}
    assert values["all of 10"] < values["all of 5"] < values["one answer"] < values["at least 1 of 10"]
    assert values["all of 10"] < values["at least 8 of 10"] < values["at least 1 of 10"]
    assert all(f.interval[0] <= f.value <= f.interval[1] for f in found.values())
    assert made(result("clean", first(9), "clean")).resubmissions == {}, "who always says one cannot be asked again"


@given(st.integers(1, 12), st.data())
def test_some_of_several_answers(draws, data):
    """Counted over all ways to pick them."""
    hits, of = data.draw(st.integers(0, draws)), data.draw(st.integers(1, draws))
    least = data.draw(st.integers(0, of))
    picks = list(combinations([1] * hits + [0] * (draws - hits), of))
    assert _at_least(least, of, hits, draws) == pytest.approx(sum(sum(p) >= least for p in picks) / len(picks))


def test_failures_and_dead_gradients():
    bad = Evidence("images without a gradient", 0.8, (0.7, 0.9), 0.0, 0.05)
    good = Evidence("others", 0.0, (0.0, 0.01), 0.0, 0.05)
    dead = Criterion("the gradient is alive", "why", (good, bad))
    found = made(result("clean", first(9), "clean"), criteria=(dead,), liveness=ALIVE)
    assert found.dead_gradients == 0.8 and found.status == 3
    assert found.failures == ["the gradient is alive: images without a gradient"]
    alive = made(result("clean", first(9), "clean"), criteria=(Criterion("the gradient is alive", "why", (good,)),))
    assert alive.dead_gradients is None and alive.status == 0 and alive.failures == []
