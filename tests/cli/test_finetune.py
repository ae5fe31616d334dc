"""``perturbify finetune``: from a recipe to a checked run, and back to it after a SIGKILL."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import perturbify
from perturbify import recipe
from perturbify.checkpoint import read_header
from perturbify.checks import Report
from perturbify.checks.runs import over_runs
from perturbify.cli import seeds
from perturbify.cli.main import run
from perturbify.training import launch, state

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "resnet20.safetensors"
SMALL = ("--model", "factories:small", "--no-check", "--set", "data.train_images=50")


def test_a_whole_run(trained):
    assert {p.name for p in trained.path.iterdir()} == {
        *(
            "perturbify-run.json",
            "recipe.toml",
            "metrics.jsonl",
            "model.safetensors",
            "README.md",
            "state.safetensors",
            "state.before.safetensors",
        ),
        *("report.json", "report.md", "report.html"),
    }
    said = trained.result
    assert said["model"] == str(trained.model)
    assert [m["epoch"] for m in said["metrics"]] == [0, 1]
    assert said["report"] == json.loads((trained.path / "report.json").read_text(encoding="utf-8"))
    assert (said["report"]["verdict"], said["report"]["preset"]) == ("not established", "custom")
    header = read_header(trained.model)
    assert header.check["rows"][0]["n"] == 50
    assert header.model == {"name": "perturbify:cifar_resnet20", "kwargs": {"num_classes": 10}, "weights": "fresh"}
    assert "model: cifar_resnet20 means perturbify:cifar_resnet20" in trained.err
    assert "weights: fresh" in trained.err
    assert "data: digits, 200 training and 355 test images of 3×8×8" in trained.err
    assert trained.err.count("epoch ") == 2
    assert recipe.load(trained.path / "recipe.toml").model == "perturbify:cifar_resnet20"
    card = (trained.path / "README.md").read_text(encoding="utf-8")
    assert "**Not established; worst case" in card and "Margin-PGD-10, 4 draws" in card


def test_the_table_at_the_end(cli, folder):
    text = cli("finetune", "--recipe", "smoke", *SMALL, "-o", "run")
    head, _, first, second, _, model = text.splitlines()
    assert head.startswith("epoch (from 0)  clean loss")
    assert (first.split()[0], second.split()[0]) == ("0", "1")
    assert model == "model: run/model.safetensors"


def test_a_converted_file(cli, folder):
    cli(
        "convert",
        "cifar_resnet20",
        "--data",
        "digits",
        "--grain",
        "channel",
        "--share",
        "batch",
        "-o",
        "in.safetensors",
    )
    before = Path("in.safetensors").read_bytes()
    settings = ("--set", "train.epochs=1", "--set", "train.warmup_epochs=0", "--set", "data.train_images=100")
    arguments = ("--recipe", "smoke", "--model", "in.safetensors", "-o", "run", *settings, "--json", "-q")
    said = cli("finetune", *arguments, status=4)
    assert said["report"]["noise"]["alive"]
    assert Path("in.safetensors").read_bytes() == before
    assert read_header("run/model.safetensors").config["grain"] == "channel"
    assert recipe.load("run/recipe.toml").perturb.share == "batch"  # what was done, not what the recipe had said
    moved = load_file("run/model.safetensors")["conv1.perturb.theta"]
    assert not torch.equal(moved, load_file("in.safetensors")["conv1.perturb.theta"])


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS}")
def test_trained_weights_keep_their_normalisation(cli, folder):
    settings = ("--set", "train.epochs=1", "--set", "data.train_images=50", "--set", "optimizer.lr=0")
    cli("finetune", "--recipe", "smoke", "--weights", WEIGHTS, "-o", "run", "--no-check", *settings)
    header = read_header("run/model.safetensors")
    assert header.model["weights"].startswith("file:resnet20.safetensors")
    assert header.normalize["mean"] == pytest.approx([0.485, 0.456, 0.406], abs=0.01)
    source, ours = load_file(WEIGHTS), load_file("run/model.safetensors")
    assert torch.equal(ours["conv1.weight"], source["conv1.weight"])


@pytest.mark.parametrize("method", ["vanilla", "none"])
def test_baselines_have_no_noise(method, cli, folder):
    arguments = ("--recipe", "smoke", "--set", f"method={method}", "--set", "train.epochs=1", "-o", "run", "--json")
    said = cli("finetune", *arguments, status=4)
    assert said["metrics"][0]["theta"] is None
    assert (said["metrics"][0]["adversarial_loss"] is None) == (method == "none")
    assert said["report"]["noise"]["sites"] == 0
    assert said["report"]["verdict"] == "not established"
    assert not list(perturbify.perturbations(perturbify.load("run/model.safetensors")))


def test_runs_get_folders_of_their_own(cli, folder):
    for name in ("smoke-small", "smoke-small-2"):
        said = cli("finetune", "--recipe", "smoke", *SMALL, "--json")
        assert said["run"] == f"runs/{name}"
        assert Path(said["model"]).is_file()


def test_set_and_data(cli, folder, npz):
    npz("mine.npz", [0, 1] * 10, [0, 1])
    changes = ("--set", "train.epochs=1", "--set", "optimizer.lr=1e-3", "--set", "data.train_images=")
    said = cli("finetune", "--recipe", "smoke", "--data", "mine.npz", "-o", "run", "--no-check", "--json", *changes)
    assert said["metrics"][0]["lr"]["weights"] == 1e-3
    assert said["metrics"][0]["images"] == 20
    written = recipe.load("run/recipe.toml")
    assert (written.data.name, written.train.epochs, written.optimizer.lr) == ("mine.npz", 1, 1e-3)
    assert read_header("run/model.safetensors").classes == ["0", "1"]


def test_settings_that_mean_nothing_are_told(folder, capsys):
    for changes, told in ((("train.w_steps=3",), True), (("train.w_steps=3", "train.joint=false"), False), ((), False)):
        sets = [part for change in changes for part in ("--set", change)]
        assert run(["finetune", "--recipe", "smoke", *SMALL, *sets]) == 0
        assert ("train.w_steps and train.theta_steps mean nothing" in capsys.readouterr().err) is told


def test_force(cli, refused, folder):
    cli("finetune", "--recipe", "smoke", *SMALL, "-o", "run")
    assert "holds a run already" in refused("finetune", "--recipe", "smoke", *SMALL, "-o", "run")
    before = Path("run/model.safetensors").read_bytes()
    cli("finetune", "--recipe", "smoke", *SMALL, "-o", "run", "--force", "--set", "seed=3")
    assert Path("run/model.safetensors").read_bytes() != before


def test_quiet_and_json_in_a_process_of_its_own(command, folder):
    done = command("finetune", "--recipe", "smoke", *SMALL, "-o", "run", "--json", "-q", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["run"] == "run"


def test_a_check_that_fails_is_exit_status_3(folder, monkeypatch, capsys):
    """The run is finished and written all the same."""
    from perturbify.perturbation import Perturbation

    monkeypatch.setattr(Perturbation, "project_", lambda self: self.theta.data.fill_(1e-6))
    assert run(["finetune", "--recipe", "smoke", "-o", "run", "--json", "-q"]) == 3
    assert json.loads(capsys.readouterr().out)["report"]["verdict"] == "failed"
    assert read_header("run/model.safetensors").check["verdict"] == "failed"


# What is refused, before any long work


def start(*arguments):
    return ("finetune", "--recipe", "smoke", "--no-check", "-o", "run", *arguments)


def test_recipes(refused):
    assert "no recipe 'smok'. Hint: Did you mean 'smoke'" in refused("finetune", "--recipe", "smok", status=2)
    said = refused(*start("--set", "train.epoch=1", "--set", "seeds=1"), status=2)
    assert "train.epoch is unknown. Did you mean 'epochs'" in said
    assert "seeds is unknown. Did you mean 'seed'" in said
    assert "a value" in refused(*start("--set", "train.epochs"), status=2)
    assert "method is unknown" in refused(*start("--set", "method=vanila"), status=2)


def test_models(refused, trained, folder):
    assert "no model 'resnet81'" in refused(*start("--model", "resnet81"))
    assert "nothing to put noise behind" in refused(*start("--model", "factories:no_convolutions"))
    assert "not a classifier" in refused(*start("--model", "factories:no_classifier"))
    assert "head has 7 classes, digits has 10" in refused(
        *start("--model", "factories:small", "--model-arg", "num_classes=7")
    )
    assert "10 classes" in refused(*start("--model-arg", "num_classes=7"), status=2)
    assert "no file nowhere.safetensors" in refused(*start("--model", "nowhere.safetensors"))
    assert "give it alone" in refused(*start("--model", trained.model, "--pretrained"), status=2)
    said = refused(*start("--model", trained.model, "--set", "data.image_size=12"))
    assert "inputs of 3×8×8; digits has images of 3×12×12" in said
    assert 'grain="channel"' in said
    assert "vanilla has no noise" in refused(*start("--model", trained.model, "--set", "method=vanilla"))
    assert "data.image_size" in refused(*start("--model", "timm:vit_tiny_patch16_224"))


def test_data(refused, folder, npz, trained):
    def given(name, *more):
        return refused(*start("--data", name, *more))

    assert "Did you mean 'digits'" in given("digit")
    assert "no dataset, file or folder 'nowhere'" in given("nowhere")
    (folder / "empty").mkdir()
    assert "empty has no folder train/" in given("empty")
    for part in ("train", "val"):
        (folder / "hollow" / part / "cat").mkdir(parents=True)
    assert "There are no images in hollow/train for cat" in given("hollow")
    assert "only one class" in given(npz("one.npz", [0] * 6, [0] * 2))
    assert "label 7, outside the 2 classes" in given(npz("outside.npz", [0, 1] * 6, [0, 7]))
    assert "label -1, outside the 2 classes" in given(npz("negative.npz", [0, 1] * 6, [0, -1]))
    assert "not 0 to 1" in given(npz("gap.npz", [0, 2] * 6, [0, 2]))
    assert "head has 10 classes, npz:two has 2" in given(npz("two.npz", [0, 1] * 6, [0, 1]), "--model", trained.model)
    assert "neither a .npz file nor a folder" in given("factories.py")


def test_where_data_are_not_here(refused, folder, monkeypatch):
    monkeypatch.setenv("PERTURBIFY_DATA", str(folder))
    assert "--download" in refused("finetune", "--recipe", "cifar10", "--no-check", "-o", "run")


def test_devices_and_folders(refused, folder):
    for device in ("cuda:99", "gpu"):
        assert f"no device '{device}' here" in refused(*start("--device", device))
    (folder / "run").mkdir()
    (folder / "run" / "README.md").write_text("mine")
    for force in ((), ("--force",)):
        assert "not empty, and it holds no run" in refused(*start(*force))
    assert "factories.py is a file" in refused("finetune", "--recipe", "smoke", "-o", "factories.py")


def test_usage(refused, folder):
    assert "Give --recipe" in refused("finetune", status=2)
    assert "Give --recipe" in refused("finetune", "--recipe", "smoke", "--resume", "run", status=2)
    assert "--resume alone" in refused("finetune", "--resume", "run", "--set", "seed=1", status=2)
    assert "holds no run" in refused("finetune", "--resume", "run")


def test_divergence_is_exit_status_1(folder, capsys):
    arguments = ["finetune", "--recipe", "smoke", "-o", "run", "--no-check", "--set", "optimizer.lr=1e6"]
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: Training diverged in epoch " in err
    assert "Hint: Start again with a lower learning rate" in err
    saved = state.read(Path("run/state.safetensors"))
    assert all(bool(tensor.isfinite().all()) for tensor in saved.tensors.values())
    assert not Path("run/model.safetensors").exists()


# SIGKILL and --resume

LONG = (
    *("finetune", "--recipe", "smoke", "--no-check", "-q"),
    *("--set", "train.epochs=3", "--set", "train.batch_size=20", "--set", "train.w_steps=2"),
)


def position(path):
    """Epoch and step that a saved state goes on with; None while there is none."""
    try:
        saved = state.read(path).position
    except perturbify.PerturbifyError:
        return None
    return saved.epoch, saved.step


def kill(arguments, run_dir, *, when, delay=0.0, writing=False):
    """Starts a command and kills it a moment after its saved state has come so far; says where that left the run.

    With ``writing`` the moment is one in which a file is being written.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 240
        while (at := position(run_dir / "state.safetensors")) is None or at < when:
            assert process.poll() in (None, 0), "it failed"
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(delay)
        while writing and not list(run_dir.glob(".*.tmp")):
            assert process.poll() is None and time.monotonic() < until
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return position(run_dir / "state.safetensors")


def assert_same_run(one, other):
    for file in ("model.safetensors", "state.safetensors"):
        ours, theirs = load_file(one / file), load_file(other / file)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    assert [m["epoch"] for m in lines[0]] == [0, 1, 2]
    for ours, theirs in zip(*lines, strict=True):
        for timing in ("seconds", "images_per_second"):
            del ours[timing], theirs[timing]
        assert ours == theirs


def test_killed_while_it_writes_and_resumed(cli, folder, one_thread):
    cli(*LONG, "-o", "whole")
    killed = folder / "killed"
    saving = (*LONG, "-o", str(killed), "--set", "train.save_minutes=1e-9")
    at = kill(saving, killed, when=(random.choice((0, 1)), random.randrange(1, 9)), writing=True)
    assert (0, 1) <= at < (3, 0), at
    assert not (killed / "model.safetensors").exists()
    said = cli("finetune", "--resume", killed, "--no-check", "-q", "--json")
    assert said["run"] == str(killed)
    assert_same_run(killed, folder / "whole")
    assert not list(killed.glob(".*"))


@pytest.mark.slow
def test_killed_twenty_times(cli, folder, one_thread):
    """At random moments, most of them while it writes: it saves after every step, which takes longer than the step."""
    cli(*LONG, "-o", "whole")
    killed = folder / "killed"
    arguments, left_at = (*LONG, "-o", str(killed), "--set", "train.save_minutes=1e-9"), (0, 0)
    for _ in range(20):
        left_at = kill(arguments, killed, when=left_at, delay=random.uniform(0, 0.2))
        arguments = ("finetune", "--resume", str(killed), "--no-check", "-q")
    cli(*arguments)
    assert_same_run(killed, folder / "whole")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(number, status, cli, folder, one_thread):
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *(a for a in LONG if a != "-q"), "-o", "run"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    while (position(folder / "run" / "state.safetensors") or (0, 0)) < (1, 0):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Go on from the last saved state: perturbify finetune --resume run" in said.decode()
    assert not (folder / "run" / "model.safetensors").exists(), "it ended before its end"
    cli(*LONG, "-o", "whole")
    cli("finetune", "--resume", "run", "--no-check", "-q")
    assert_same_run(folder / "run", folder / "whole")


def test_resuming_a_finished_run_checks_it_again(trained, cli, folder):
    shutil.copytree(trained.path, "run")
    before = load_file("run/model.safetensors")
    said = cli("finetune", "--resume", "run", "--json", "-q", status=4)
    after = load_file("run/model.safetensors")
    assert all(torch.equal(after[key], value) for key, value in before.items())
    again, first = (
        [result | {"seconds": 0} for result in report["results"]]
        for report in (said["report"], trained.result["report"])
    )
    assert again == first
    assert said["metrics"] == trained.result["metrics"]


def test_resuming_a_damaged_run(trained, refused, folder):
    shutil.copytree(trained.path, "run")
    for name in ("state", "state.before"):
        saved = Path(f"run/{name}.safetensors")
        saved.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    assert "run/state.safetensors is not a complete safetensors file" in refused("finetune", "--resume", "run")


def test_the_seed_decides_on_fresh_weights_too(cli, folder):
    def weights(name, *more):
        torch.manual_seed(len(name))  # the state of this process does not
        cli("finetune", "--recipe", "smoke", *SMALL, "-o", name, "--set", "optimizer.lr=0", *more)
        return load_file(f"{name}/model.safetensors")["0.weight"]

    assert torch.equal(weights("one"), weights("another"))
    assert not torch.equal(weights("one more"), weights("other", "--set", "seed=1"))


# Several seeds

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


def test_seeds_count_from_the_recipes(cli, folder):
    Path("mine.toml").write_text(recipe.text("smoke").replace("seed = 0", "seed = 5"), encoding="utf-8")
    arguments = ("finetune", "--recipe", "mine.toml", *SMALL, "--seeds", 2)
    text = cli(*arguments)
    assert [p.name for p in sorted(Path("runs/mine-small").glob("seed-*"))] == ["seed-5", "seed-6"]
    assert "not checked" in text and "±" not in text
    networks = [load_file(f"runs/mine-small/seed-{seed}/model.safetensors") for seed in (5, 6)]
    assert not torch.equal(networks[0]["0.weight"], networks[1]["0.weight"])
    assert cli(*arguments) == text
    assert [p.name for p in Path("runs").iterdir()] == ["mine-small"], "the same command goes on in the same folder"


def test_a_run_that_is_there_does_not_hold_the_seeds(cli, folder):
    cli("finetune", "--recipe", "smoke", *SMALL)
    assert cli("finetune", "--recipe", "smoke", *SMALL, "--seeds", 1, "--json")["folder"] == "runs/smoke-small-2"


def test_killed_among_the_seeds_and_gone_on_with(cli, folder, one_thread):
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


def test_a_run_that_was_killed_before_its_check_is_checked(cli, folder):
    cli(*CHECKED, "--seeds", 2, "-o", "runs/a", "--no-check", "-q")
    cli(*CHECKED, "--seeds", 1, "-o", "runs/a", "-q", status=4)
    report = Path("runs/a/seed-0/report.json").stat().st_mtime_ns
    said = cli(*CHECKED, "--seeds", 2, "-o", "runs/a", "-q", "--json", status=4)
    assert Path("runs/a/seed-0/report.json").stat().st_mtime_ns == report
    assert [len(r["metrics"]) for r in said["runs"]] == [2, 2] and said["figures"]["clean"]["runs"] == 2


def test_a_file_of_ours_is_trained_with_several_seeds(cli, folder):
    cli("convert", "cifar_resnet20", "--data", "digits", "--grain", "layer", "-o", "in.safetensors", "-q")
    arguments = ("finetune", "--recipe", "smoke", "--model", "in.safetensors", "--no-check", "-o", "a", "-q")
    few = ("--set", "data.train_images=50", "--set", "train.epochs=1", "--set", "train.warmup_epochs=0")
    said = cli(*arguments, *few, "--seeds", 2, "--json")
    assert cli(*arguments, *few, "--seeds", 2, "--json") == said


def test_other_weights_at_the_start_are_other_runs(cli, refused, folder):
    """No recipe says what a run began with: what is finished would be kept as if it had begun with these."""
    small = ("--set", "data.train_images=50", "--no-check", "--trust-factory")
    common = ("finetune", "--recipe", "smoke", *small, "--seeds", 1, "-o", "a")
    cli(*RUNS, "--no-check", "--seeds", 1, "-o", "a")
    cli("convert", "factories:small", "--input-size", "3x8x8", "-o", "mine.safetensors")
    said = refused(*common, "--model", "mine.safetensors")
    assert "a/seed-0 holds a run that began with other weights: " in said and "a FILE of digest" in said
    cli(*common, "--model", "mine.safetensors", "--force")
    kept = Path("a/seed-0/model.safetensors").stat().st_mtime_ns
    cli(*common, "--model", "mine.safetensors")
    assert Path("a/seed-0/model.safetensors").stat().st_mtime_ns == kept
    said = refused(*common, "--model", "a/seed-0")  # the network of a run is a FILE as well
    assert "began with other weights: a FILE of digest" in said


def test_the_worst_status_of_the_runs(folder, monkeypatch, capsys):
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
        ("0,4,0", "the seed 0 comes twice"),
        ("", "empty"),
        (",", "it names no seed"),
        (" , ", "it names no seed"),
        ("three", "'three' is no whole number: give how many runs, 3, or their seeds, 0,4,7"),
        ("0,1.5", "'1.5' is no whole number"),
        ("0", "0 runs are not from 1 to 1,000; one seed alone is 0,"),
        ("4000", "4000 runs are not from 1 to 1,000"),
        ("0,-1", "-1"),
        ("0,99999999999", "the seed 99999999999 is not from 0 to 4,294,967,295"),
    ],
)
def test_seeds_that_are_none(given, said, refused):
    assert said in refused("finetune", "--recipe", "smoke", "--seeds", given, status=2)


def test_seeds_beside_what_contradicts_them(refused, folder):
    assert "the same command with --seeds goes on" in refused("finetune", "--resume", "run", "--seeds", 2, status=2)
    given = ("finetune", "--recipe", "smoke", "--seeds", 2, "--set", "seed=3")
    assert "--set seed has no place beside it" in refused(*given, status=2)


def test_folders_of_other_seeds_and_recipes(cli, refused, trained, folder, npz):
    shutil.copytree(trained.path, "run")
    assert "run is a run itself" in refused("finetune", "--recipe", "smoke", "--seeds", 2, "-o", "run")
    cli(*RUNS, "--no-check", "--seeds", "0,1", "-o", "a")
    said = refused(*RUNS, "--no-check", "--seeds", "0,1", "-o", "a", "--set", "optimizer.lr=0.2")
    assert "a/seed-0 holds a run of another recipe: optimizer.lr is 0.1 there, and 0.2 here." in said
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
    assert "There is no file a/seed-1/recipe.toml, and a run cannot go on without its recipe." in said
