"""``perturbify finetune --seeds``: a run for each seed, kept and gone on with, and one table of all."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from killing import LONG, assert_same_run, kill
from safetensors.torch import load_file

import perturbify
from perturbify import recipe
from perturbify.checks import Report
from perturbify.checks.runs import over_runs
from perturbify.cli import seeds
from perturbify.cli.main import run
from perturbify.training import launch

SMALL = ("--model", "factories:small", "--no-check", "--set", "data.train_images=50")
RUNS = ("finetune", "--recipe", "smoke", "--model", "factories:small", "--set", "data.train_images=50")
CHECKED = (*RUNS, "--set", "check.images=10", "--set", "check.steps=1")


def test_a_run_for_each_seed(cli, folder):
    said = cli(*CHECKED, "--seeds", "0,4", "-o", "runs/a", "--json", "-q", status=4)
    assert (said["folder"], said["seeds"]) == ("runs/a", [0, 4])
    folders = [Path("runs/a/seed-0"), Path("runs/a/seed-4")]
    runs = [(r["run"], r["seed"], r["error"]) for r in said["runs"]]
    assert runs == [("runs/a/seed-0", 0, None), ("runs/a/seed-4", 4, None)]
    assert [recipe.load(f / "recipe.toml").seed for f in folders] == [0, 4]
    reports = [Report.read(f / "report.json") for f in folders]
    assert [r["report"] for r in said["runs"]] == [r.to_dict() for r in reports]
    assert said["figures"] == {name: asdict(spread) for name, spread in over_runs(reports).items()}
    assert said["figures"]["worst case"]["runs"] == 2
    alone = cli(*CHECKED, "--set", "seed=4", "-o", "alone", "--json", "-q", status=4)
    assert alone["metrics"][-1]["clean_loss"] == said["runs"][1]["metrics"][-1]["clean_loss"], "a run as by itself"

    written = {p: p.stat().st_mtime_ns for p in Path("runs/a").rglob("*") if p.is_file()}
    text = cli(*CHECKED, "--seeds", "0,4", "-o", "runs/a", status=4)
    assert {p: p.stat().st_mtime_ns for p in written} == written, "what is finished is kept"
    figures = said["figures"]["clean"]
    row = next(line for line in text.splitlines() if line.startswith("clean "))
    mean, sd, low, high = (f"{100 * figures[key]:.1f}" for key in ("mean", "sd", "low", "high"))
    assert row.split() == ["clean", mean, "±", sd, low, "to", high]
    assert "accuracy in percent, over 2 training runs; 10 test images of digits" in text
    assert re.search(r"^4 .*not established +runs/a/seed-4/model.safetensors$", text, re.M)

    more = cli(*CHECKED, "--seeds", 1, "-o", "runs/a", status=4)
    assert "over 1 training run;" in more and re.search(r"^clean +[0-9.]+ ± –  ", more, re.M), "never 0"


def test_seeds_count_up_from_the_recipes_seed(cli, folder):
    Path("mine.toml").write_text(recipe.text("smoke").replace("seed = 0", "seed = 5"), encoding="utf-8")
    arguments = ("finetune", "--recipe", "mine.toml", *SMALL, "--seeds", 2)
    text = cli(*arguments)
    assert [p.name for p in sorted(Path("runs/mine-small").glob("seed-*"))] == ["seed-5", "seed-6"]
    assert "not checked" in text and "±" not in text
    networks = [load_file(f"runs/mine-small/seed-{seed}/model.safetensors") for seed in (5, 6)]
    assert not torch.equal(networks[0]["0.weight"], networks[1]["0.weight"])
    assert cli(*arguments) == text
    assert [p.name for p in Path("runs").iterdir()] == ["mine-small"], "the same command goes on in the same folder"


def test_an_existing_run_does_not_hold_the_seeds(cli, folder):
    cli("finetune", "--recipe", "smoke", *SMALL)
    assert cli("finetune", "--recipe", "smoke", *SMALL, "--seeds", 1, "--json")["folder"] == "runs/smoke-small-2"


def test_killed_between_seeds_and_resumed(cli, folder, one_thread):
    cli(*LONG, "--set", "seed=1", "-o", "whole")
    killed = folder / "killed"
    again = (*LONG, "--seeds", "2", "-o", str(killed), "--set", "train.save_minutes=1e-9")
    first = killed / "seed-0" / "model.safetensors"
    at = kill(again, killed / "seed-1", when=(0, 2))
    assert (0, 2) <= at < (3, 0) and not (killed / "seed-1" / "model.safetensors").exists()
    before = first.stat().st_mtime_ns
    cli(*again)
    assert first.stat().st_mtime_ns == before
    assert_same_run(killed / "seed-1", folder / "whole")


def test_a_run_killed_before_its_check_is_checked(cli, folder):
    cli(*CHECKED, "--seeds", 2, "-o", "runs/a", "--no-check", "-q")
    cli(*CHECKED, "--seeds", 1, "-o", "runs/a", "-q", status=4)
    report = Path("runs/a/seed-0/report.json").stat().st_mtime_ns
    said = cli(*CHECKED, "--seeds", 2, "-o", "runs/a", "-q", "--json", status=4)
    assert Path("runs/a/seed-0/report.json").stat().st_mtime_ns == report
    assert [len(r["metrics"]) for r in said["runs"]] == [2, 2] and said["figures"]["clean"]["runs"] == 2


def test_an_existing_checkpoint_trains_with_several_seeds(cli, folder):
    cli("convert", "cifar_resnet20", "--data", "digits", "--grain", "layer", "-o", "in.safetensors", "-q")
    arguments = ("finetune", "--recipe", "smoke", "--model", "in.safetensors", "--no-check", "-o", "a", "-q")
    few = ("--set", "data.train_images=50", "--set", "train.epochs=1", "--set", "train.warmup_epochs=0")
    said = cli(*arguments, *few, "--seeds", 2, "--json")
    assert cli(*arguments, *few, "--seeds", 2, "--json") == said


def test_different_initial_weights_are_refused_without_force(cli, refused, folder):
    """No recipe says what a run began with: what is finished would be kept as if it had begun with these."""
    small = ("--set", "data.train_images=50", "--no-check", "--trust-factory")
    common = ("finetune", "--recipe", "smoke", *small, "--seeds", 1, "-o", "a")
    cli(*RUNS, "--no-check", "--seeds", 1, "-o", "a")
    cli("convert", "factories:small", "--input-size", "3x8x8", "-o", "mine.safetensors")
    said = refused(*common, "--model", "mine.safetensors")
    assert "a/seed-0 holds a run with another start: weights fresh" in said and "a FILE of digest" in said
    cli(*common, "--model", "mine.safetensors", "--force")
    kept = Path("a/seed-0/model.safetensors").stat().st_mtime_ns
    cli(*common, "--model", "mine.safetensors")
    assert Path("a/seed-0/model.safetensors").stat().st_mtime_ns == kept
    said = refused(*common, "--model", "a/seed-0")  # the network of a run is a FILE as well
    assert "with another start: a FILE of digest" in said


def test_different_images_under_one_name_are_refused(refused, cli, folder, npz):
    data = npz("mine.npz", [*range(10)] * 5, [*range(10)], (8, 8))
    small = ("--set", "model=factories:small", "--no-check", "--seeds", 1, "-o", "a")
    again = ("finetune", "--recipe", "smoke", *small, "--data", data)
    for _ in ("begun", "kept"):
        cli(*again)
    with np.load("mine.npz") as kept:
        arrays = {**kept}
    np.savez("mine.npz", **(arrays | {"x_train": 255 - arrays["x_train"]}))
    assert "a/seed-0 holds a run with another start: weights fresh, images of digest" in refused(*again)


def test_the_exit_status_is_the_worst_runs(folder, monkeypatch, capsys):
    def diverges(model, of, *rest, **more):
        if of.seed == 0:
            raise perturbify.errors.Diverged("Training diverged in epoch 0.")
        return finetune(model, of, *rest, **more)

    finetune = launch.finetune
    with monkeypatch.context() as patch:
        patch.setattr(launch, "finetune", diverges)
        assert run([*map(str, CHECKED), "--seeds", "2", "-o", "a", "--json", "-q"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [r["error"] for r in said["runs"]] == ["Training diverged in epoch 0.", None]
    assert said["figures"]["clean"]["runs"] == 1 and Path("a/seed-1/model.safetensors").is_file()
    given = ("finetune", "--recipe", "smoke", "--seeds", "1", "-o", "b", "--set", "optimizer.lr=1e6", "-q")
    for _ in ("begun", "gone on with"):
        assert run([*given]) == 1
        assert re.search("^seed 0: Training diverged in epoch [01]", capsys.readouterr().out, re.M)
    statuses = [SimpleNamespace(status=n) for n in (0, 4, 3, 1)]
    assert [seeds.status(statuses[:n]) for n in (1, 2, 3, 4)] == [0, 4, 3, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0,4,0", "the seed 0 occurs twice"),
        ("", "empty"),
        (",", "it names no seed"),
        (" , ", "it names no seed"),
        ("three", "'three' is not a whole number: use a number of runs, such as 3, or seeds, such as 0,4,7"),
        ("0,1.5", "'1.5' is not a whole number"),
        ("0", "number of runs, 0, is not between 1 and 1,000; for one seed, use 0,"),
        ("4000", "number of runs, 4000, is not between 1 and 1,000"),
        ("0,-1", "-1"),
        ("0,99999999999", "the seed 99999999999 is not between 0 and 4,294,967,295"),
    ],
)
def test_invalid_seeds(given, said, refused):
    assert said in refused("finetune", "--recipe", "smoke", "--seeds", given, status=2)


def test_options_that_conflict_with_seeds(refused, folder):
    assert "repeat the command with --seeds" in refused("finetune", "--resume", "run", "--seeds", 2, status=2)
    given = ("finetune", "--recipe", "smoke", "--seeds", 2, "--set", "seed=3")
    assert "leave out --set seed" in refused(*given, status=2)


def test_folders_of_other_seeds_and_recipes(cli, refused, trained, folder, npz):
    shutil.copytree(trained.path, "run")
    assert "run is a run itself" in refused("finetune", "--recipe", "smoke", "--seeds", 2, "-o", "run")
    cli(*RUNS, "--no-check", "--seeds", "0,1", "-o", "a")
    said = refused(*RUNS, "--no-check", "--seeds", "0,1", "-o", "a", "--set", "optimizer.lr=0.2")
    assert "a/seed-0 holds a run of another recipe: optimizer.lr is 0.1 there, but 0.2 here." in said
    assert "--force" in said
    assert "holds no run" in refused("finetune", "--recipe", "smoke", *SMALL, "-o", "a")
    Path("a/seed-2").mkdir()
    Path("a/seed-2/mine.txt").write_text("mine", encoding="utf-8")
    assert "a/seed-2 is not empty" in refused(*RUNS, "--no-check", "--seeds", "3", "-o", "a")
    other = npz("mine.npz", [*range(10)] * 5, [*range(10)], (12, 12))
    said = refused(*RUNS, "--no-check", "--seeds", "0,1", "-o", "a", "--data", other)
    assert "a/seed-0 holds a run of another recipe: data.name is 'digits' there" in said, "not the size of its images"
    before = Path("a/seed-0/model.safetensors").read_bytes()
    cli(*RUNS, "--no-check", "--seeds", "0,1", "-o", "a", "--set", "optimizer.lr=0.2", "--force")
    assert Path("a/seed-0/model.safetensors").read_bytes() != before
    Path("a/seed-1/recipe.toml").unlink()
    said = refused(*RUNS, "--no-check", "--seeds", "0,1", "-o", "a", "--set", "optimizer.lr=0.2")
    assert "There is no file a/seed-1/recipe.toml, and a run cannot be resumed without its recipe." in said
