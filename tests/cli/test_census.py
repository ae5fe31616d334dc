"""``perturbify census``: rows, totals, going on, and what is refused."""

import json

from click.testing import CliRunner

from perturbify.cli.census import census


def run(*arguments):
    return CliRunner().invoke(census, [str(a) for a in arguments])


def test_a_census_of_two_models_can_resume(tmp_path):
    notes = tmp_path / "notes.jsonl"
    first = run("--filter", "timm:test_resnet", "--notes", notes)
    assert first.exit_code == 0, first.output
    assert "timm:test_resnet  complete  15" in first.stdout
    assert "timm:test_resnet: complete, 15 output, 0 inner, 0 graph, 0 skipped" in first.stderr
    both = run("--library", "timm", "--filter", "test_[rv]*t", "--notes", notes, "--json", "-q")
    found = json.loads(both.stdout)
    assert [m["name"] for m in found["models"]] == ["timm:test_resnet", "timm:test_vit"]
    assert found["summary"]["all"]["complete"] == 2
    assert both.stderr == ""
    assert len(notes.read_text().splitlines()) == 3


def test_an_incomplete_model_is_status_1(monkeypatch):
    monkeypatch.setattr("perturbify.census.pool.WORKER", ("-c", "pass"))
    done = run("--filter", "timm:test_resnet", "-q")
    assert done.exit_code == 1
    assert "incomplete: timm:test_resnet: its process ended with status 0" in done.stdout


def test_a_pattern_that_matches_no_model():
    done = run("--library", "torchvision", "--filter", "timm:*")
    assert done.exit_code == 2
    assert "No model of torchvision is called 'timm:*'." in done.stderr
