"""``perturbify finetune``: from a recipe to a checked run, and back to it after a SIGKILL."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killing import LONG, assert_same_run, kill, position
from safetensors.torch import load_file

import perturbify
from perturbify import recipe
from perturbify.checkpoint import read_header
from perturbify.cli.main import run
from perturbify.training import state

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
    head, _, _, first, second, _, model = text.splitlines()
    assert head.startswith("epoch  clean loss") and max(map(len, text.splitlines())) <= 80
    whole = cli("finetune", "--resume", "run", "--trust-factory", "--wide").splitlines()
    assert whole[0].startswith("epoch  clean loss") and "θ min" in whole[0]
    assert (first.split()[0], second.split()[0]) == ("1", "2")
    assert model == "model: run/model.safetensors"


def test_a_converted_file(cli, folder):
    cli(
        "convert",
        "cifar_resnet20",
        "--data",
        "digits",
        "--grain",
        "channel",
        "--draw-per",
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
    assert recipe.load("run/recipe.toml").perturb.draw_per == "batch"  # what was done, not what the recipe had said
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


def test_each_run_gets_its_own_folder(cli, folder):
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


def test_settings_without_effect_are_reported(folder, capsys):
    for changes, told in ((("train.w_steps=3",), True), (("train.w_steps=3", "train.joint=false"), False), ((), False)):
        sets = [part for change in changes for part in ("--set", change)]
        assert run(["finetune", "--recipe", "smoke", *SMALL, *sets]) == 0
        assert ("train.w_steps and train.theta_steps are ignored" in capsys.readouterr().err) is told


def test_force(cli, refused, folder):
    cli("finetune", "--recipe", "smoke", *SMALL, "-o", "run")
    assert "already holds a run" in refused("finetune", "--recipe", "smoke", *SMALL, "-o", "run")
    before = Path("run/model.safetensors").read_bytes()
    cli("finetune", "--recipe", "smoke", *SMALL, "-o", "run", "--force", "--set", "seed=3")
    assert Path("run/model.safetensors").read_bytes() != before


def test_quiet_and_json_in_a_separate_process(command, folder):
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
    assert "leave out these options" in refused(*start("--model", trained.model, "--pretrained"), status=2)
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


def test_a_missing_dataset_suggests_download(refused, folder, monkeypatch):
    monkeypatch.setenv("PERTURBIFY_DATA", str(folder))
    assert "--download" in refused("finetune", "--recipe", "cifar10", "--no-check", "-o", "run")


def test_devices_and_folders(refused, folder):
    for device in ("cuda:99", "gpu"):
        assert f"no device '{device}'" in refused(*start("--device", device))
    (folder / "run").mkdir()
    (folder / "run" / "README.md").write_text("mine")
    for force in ((), ("--force",)):
        assert "not empty and holds no run" in refused(*start(*force))
    assert "factories.py is a file" in refused("finetune", "--recipe", "smoke", "-o", "factories.py")


def test_usage(refused, folder):
    assert "Use --recipe" in refused("finetune", status=2)
    assert "Use --recipe" in refused("finetune", "--recipe", "smoke", "--resume", "run", status=2)
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
def test_a_signal_saves_and_explains_how_to_resume(number, status, cli, folder, one_thread):
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
    assert "Resume from the last saved state: perturbify finetune --resume run" in said.decode()
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


def test_the_seed_also_determines_fresh_weights(cli, folder):
    def weights(name, *more):
        torch.manual_seed(len(name))  # the state of this process does not
        cli("finetune", "--recipe", "smoke", *SMALL, "-o", name, "--set", "optimizer.lr=0", *more)
        return load_file(f"{name}/model.safetensors")["0.weight"]

    assert torch.equal(weights("one"), weights("another"))
    assert not torch.equal(weights("one more"), weights("other", "--set", "seed=1"))


def test_resume_remembers_to_leave_out_the_check(cli, folder):
    cli("finetune", "--recipe", "smoke", "--model", "factories:small", "--no-check", "-o", "run", "-q")
    assert not (folder / "run" / "report.json").exists()
    assert cli("finetune", "--resume", "run", "--trust-factory", "--json")["report"] is None
    checked = cli("finetune", "--resume", "run", "--trust-factory", "--check", "--json", status=4)
    assert checked["report"] is not None
    assert cli("finetune", "--resume", "run", "--trust-factory", "--json", status=4)["report"] is not None


def test_the_check_is_announced_before_training(trained):
    said = trained.err.index("after training: a check of about ")
    assert "(--no-check skips it)" in trained.err[said:]
    assert said < trained.err.index("epoch 1/2: ")
