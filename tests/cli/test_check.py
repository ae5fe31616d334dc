"""``perturbify check`` and ``inspect``: reports of files and of named models, and status 3 for dead noise."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from perturbify.checkpoint import read_header
from perturbify.cli.main import run

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "resnet20.safetensors"
FEW = ("--attacks", "fgsm,pgd,eot,transfer", "--images", "10", "--steps", "1", "--eot-draws", "2", "--draws", "3")


def rewrite(source, target, change):
    """A copy of a safetensors file with its tensors changed."""
    with safe_open(source, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors)
    save_file(tensors, target, metadata=metadata)
    return target


def test_a_file_on_the_data_it_was_trained_on(cli, trained):
    report = cli("check", trained.model, "--json", *FEW)
    assert (report["dataset"], report["n"], report["preset"]) == ("digits", 10, "quick, changed")
    assert (report["eps"], report["noise"]["sites"]) == (0.1, 19)
    rows = {(row["attack"], row["noise"]): row for row in report["rows"]}
    assert {noise for attack, noise in rows if attack == "clean"} == {"on", "off"}
    for row in rows.values():
        low, high = row["interval"]
        assert low <= row["accuracy"] <= high
        assert (row["n"], row["draws"]) == (10, 3 if row["noise"] == "on" else 1)
    assert rows["EOT-PGD-1, 2 draws", "on"]["settings"]["draws"] == 2


def test_text_and_json_tell_the_same(cli, trained):
    text = cli("check", trained.model, *FEW, "-q")
    report = cli("check", trained.model, *FEW, "-q", "--json")
    assert "10 test images of digits" in text
    assert "alive at 19 sites behind 19 of 19 convolution calls" in text
    for row in report["rows"]:
        assert any(
            line.startswith(row["attack"]) and f"{100 * row['accuracy']:.1f} [" in line for line in text.splitlines()
        )
    for criterion in report["criteria"]:
        assert any(line.startswith(criterion["name"]) for line in text.splitlines())


def test_images_of_another_size_are_fitted_when_asked(cli, refused, trained, npz):
    npz("large.npz", list(range(10)) * 2, list(range(10)), size=(20, 16))
    assert "made for images of 3×8×8, those of npz:large are 3×20×16" in refused(
        "check", trained.model, "--data", "large.npz"
    )
    report = cli("check", trained.model, "--data", "large.npz", "--image-size", 8, "--json", *FEW)
    assert (report["dataset"], report["n"]) == ("npz:large", 10)


def test_images_that_are_not_square(cli, folder, npz):
    npz("wide.npz", [0, 1] * 5, [0, 1] * 3, size=(8, 12))
    settings = [f"--set={s}" for s in ("train.epochs=1", "data.train_images=10", "train.batch_size=5")]
    cli("finetune", "--recipe", "smoke", "--data", "wide.npz", "-o", "run", "--no-check", *settings)
    assert cli("check", "run/model.safetensors", "--data", "wide.npz", "--json", *FEW)["n"] == 6


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS}")
def test_a_named_model_with_weights_is_checked_as_it_is(cli, folder):
    report = cli("check", "cifar_resnet20", "--weights", WEIGHTS, "--data", "digits", "--json", *FEW)
    assert report["noise"]["sites"] == 0
    assert report["deterministic"]
    assert {row["noise"] for row in report["rows"]} == {"off"}


def test_output_and_embed(cli, refused, trained, folder):
    shutil.copytree(trained.path, "run")
    report = cli("check", "run/model.safetensors", *FEW, "-o", "out", "--embed", "--json")
    assert json.loads(Path("out/report.json").read_text(encoding="utf-8")) == report
    assert {p.name for p in Path("out").iterdir()} == {"report.json", "report.md", "report.html", "records-0.jsonl"}
    assert Path("out/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    kept = read_header("run/model.safetensors").check
    assert (kept["n"], kept["dataset"]) == (10, "digits")
    card = Path("run/README.md").read_text(encoding="utf-8")
    assert "on 10 test images of digits" in card and "EOT-PGD-1, 2 draws" in card
    assert "out holds a check already" in refused("check", "run/model.safetensors", *FEW, "-o", "out")
    again = cli("check", "run/model.safetensors", *FEW, "-o", "out", "--resume", "--json")
    assert again["rows"] == report["rows"], "with its very times: nothing was done again"
    other = refused("check", "run/model.safetensors", *FEW, "--seed", 1, "-o", "out", "--resume")
    assert "the records of another check: another plan" in other
    cli("check", "run/model.safetensors", *FEW, "--seed", 1, "-o", "out", "--force", "--json")


def test_killed_and_resumed(trained, folder):
    """The report of a check that was killed twice is that of one that was not, but for the times it took."""
    command = ("check", str(trained.model), "--images", "30", "--batch-size", "5", *FEW[:2], *FEW[4:], "--json")
    arguments = [sys.executable, "-m", "perturbify", *command]
    whole = finished([*arguments, "-q"])
    records = Path("out/records-0.jsonl")
    for enough in (5, 12):
        resume = ["--resume"] if records.exists() else []
        process = subprocess.Popen(
            [*arguments, "-o", "out", *resume],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        while not records.exists() or len(records.read_text(encoding="utf-8").splitlines()) < enough:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.kill()
        process.communicate()
    with records.open("a", encoding="utf-8") as file:
        file.write('{"trial": "FGSM | noi')  # as if it had been killed while it wrote
    assert timeless(finished([*arguments, "-o", "out", "--resume"])) == timeless(whole)
    assert timeless(json.loads(Path("out/report.json").read_text(encoding="utf-8"))) == timeless(whole)


def test_two_processes_share_the_work(trained, folder):
    command = ("check", str(trained.model), "--images", "20", "--batch-size", "5", *FEW[:2], *FEW[4:], "--json")
    whole = finished([sys.executable, "-m", "perturbify", *command])
    torchrun = (*("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511"), "-m", "perturbify")
    shared = finished([sys.executable, *torchrun, *command, "-o", "out"])
    assert timeless(shared) == timeless(whole)
    shares = [len(Path(f"out/records-{rank}.jsonl").read_text(encoding="utf-8").splitlines()) - 1 for rank in (0, 1)]
    assert sum(shares) == 4 * len(whole["rows"]) and abs(shares[0] - shares[1]) <= 1


def finished(command):
    """What a command of its own printed; a criterion may fail on a network that has hardly been trained."""
    # The report names the threads, and torchrun would give each process but one.
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode in (0, 3) or "torch.distributed.run" in command, done.stderr.decode()
    return json.loads(done.stdout)


def timeless(report):
    return report | {"rows": [row | {"seconds": 0} for row in report["rows"]]}


def test_transfer_and_a_rival(cli, refused, trained, folder):
    shutil.copy(trained.model, "other.safetensors")
    report = cli(
        "check", trained.model, *FEW, "--from", "other.safetensors", "--against", "other.safetensors", "--json"
    )
    assert "other.safetensors" in {row["crafted_on"] for row in report["rows"]}
    assert {row["network"] for row in report["rows"]} == {"itself", "other.safetensors"}
    assert "it is more robust than other.safetensors" in {c["name"] for c in report["criteria"]}
    assert "no file othr.safetensors" in refused("check", trained.model, *FEW, "--from", "othr.safetensors")


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "no fresh noise at conv1"), (0.001, "below θ_min"), (float("nan"), "not finite")]
)
def test_dead_noise_is_exit_status_3(value, said, trained, folder, capsys):
    dead = rewrite(trained.model, "dead.safetensors", lambda tensors: tensors["conv1.perturb.theta"].fill_(value))
    assert run(["check", dead, *FEW, "--json"]) == 3
    out, err = capsys.readouterr()
    assert "Error" not in err
    report = json.loads(out)
    assert not report["passed"]
    assert any(said in failure for failure in report["noise"]["failures"])
    assert run(["check", dead, *FEW, "-q"]) == 3
    assert f"noise: FAILED, {report['noise']['failures'][0]}" in capsys.readouterr().out


def test_inspect(cli, trained):
    text = cli("inspect", trained.model)
    assert "perturbify:cifar_resnet20" in text
    assert "learn2perturb" in text
    assert "50 images of digits" in text
    said = cli("inspect", trained.model, "--json")
    assert len(said["sites"]) == 19
    for site in said["sites"]:
        assert 0.0099 < site["min"] <= site["mean"] <= site["max"]
    assert said["trained"]["epochs"] == 2


# What is refused


def test_files_that_are_none(refused, trained, folder):
    Path("noise.safetensors").write_bytes(b"\xff" * 200)
    save_file({"a": torch.ones(1)}, "bare.safetensors")
    Path("half.safetensors").write_bytes(trained.model.read_bytes()[:-1000])
    for name in ("check", "inspect"):
        assert "no file nois.safetensors. Hint: Did you mean 'noise.safetensors'" in refused(name, "nois.safetensors")
        assert "not a complete safetensors file" in refused(name, "noise.safetensors")
        assert "not a complete safetensors file" in refused(name, "half.safetensors")
        assert "not one of perturbify's" in refused(name, "bare.safetensors")
        assert "factories.py" in refused(name, "factories.py")


def test_a_newer_file(refused, trained, folder):
    with safe_open(trained.model, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    metadata["perturbify"] = json.dumps(json.loads(metadata["perturbify"]) | {"format": 99})
    save_file(tensors, "newer.safetensors", metadata=metadata)
    assert "checkpoint format 99" in refused("check", "newer.safetensors")


def test_a_file_that_lacks_a_tensor(refused, trained, folder):
    rewrite(trained.model, "lacks.safetensors", lambda tensors: tensors.pop("conv1.perturb.theta"))
    assert "conv1.perturb.theta" in refused("inspect", "lacks.safetensors")
    assert "conv1.perturb.theta" in refused("check", "lacks.safetensors")


def test_data_that_do_not_fit(refused, trained, npz, folder):
    npz("two.npz", [0, 1] * 3, [0, 1])
    assert "tells 10 classes apart, npz:two has 2" in refused("check", trained.model, "--data", "two.npz")
    assert "Did you mean 'digits'" in refused("check", trained.model, "--data", "digit")
    assert "'nowhere'" in refused("check", trained.model, "--data", "nowhere")


def test_a_converted_file_names_no_data(cli, refused, folder):
    cli("convert", "factories:small", "--input-size", "3x8x8", "-o", "out.safetensors")
    assert "--data NAME" in refused("check", "out.safetensors", "--trust-factory")
    assert "--trust-factory" in refused("check", "out.safetensors", "--data", "digits")


def test_options_that_contradict_each_other(refused, trained):
    assert "give it alone" in refused("check", trained.model, "--pretrained", status=2)
    assert "there is none" in refused("check", "cifar_resnet20", "--embed", "--data", "digits", status=2)
    assert "Say on which images" in refused("check", "cifar_resnet20", status=2)
    assert "-o FOLDER" in refused("check", trained.model, "--resume", status=2)
    assert "no attacks 'pdg'" in refused("check", trained.model, "--attacks", "fgsm,pdg", status=2)
    for epsilon in ("0", "2", "8/0", "1e400", "x"):
        assert "--epsilon" in refused("check", trained.model, "--epsilon", epsilon, status=2)


def test_no_such_device(refused, trained):
    assert "no device 'cuda:99' here" in refused("check", trained.model, "--device", "cuda:99")


def test_other_named_models_and_weights(refused, trained):
    assert "no model 'resnet81'" in refused("check", "resnet81", "--data", "digits")
    assert "whole perturbify checkpoint" in refused(
        "check", "cifar_resnet20", "--data", "digits", "--weights", trained.model
    )
