"""``perturbify check`` and ``inspect``: reports of files and of named models, and status 3 for dead noise."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from perturbify.checkpoint import read_header
from perturbify.cli.main import run

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "resnet20.safetensors"
QUICK = ("--images", "10", "--steps", "1", "--eot-draws", "2")


def rewrite(source, target, change):
    """A copy of a safetensors file with its tensors changed."""
    with safe_open(source, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors)
    save_file(tensors, target, metadata=metadata)
    return target


def test_a_file_on_the_data_it_was_trained_on(cli, trained):
    report = cli("check", trained.model, "--json", *QUICK)
    assert (report["data"], report["n"], report["passed"]) == ("digits", 10, True)
    assert report["noise"]["sites"] == 19
    rows = {(row["attack"], row["noise"]): row for row in report["rows"]}
    assert {noise for attack, noise in rows if attack == "clean"} == {"on", "off"}
    for row in rows.values():
        low, high = row["interval"]
        assert low <= row["accuracy"] <= high
        assert row["n"] == 10
    assert rows["EOT-PGD-1", "on"]["draws"] == 2


def test_text_and_json_tell_the_same(cli, trained):
    text = cli("check", trained.model, *QUICK, "-q")
    report = cli("check", trained.model, *QUICK, "-q", "--json")
    assert "10 test images of digits" in text
    assert "alive at 19 sites behind 19 of 19 convolution calls" in text
    for row in report["rows"]:
        assert any(
            line.startswith(row["attack"]) and f"{100 * row['accuracy']:.1f} [" in line for line in text.splitlines()
        )


def test_images_of_another_size_are_fitted_when_asked(cli, refused, trained, npz):
    npz("large.npz", list(range(10)) * 2, list(range(10)), size=(20, 16))
    assert "made for inputs of 3×8×8, this one is 3×20×16" in refused("check", trained.model, "--data", "large.npz")
    report = cli("check", trained.model, "--data", "large.npz", "--image-size", 8, "--json", *QUICK)
    assert (report["data"], report["n"]) == ("npz:large", 10)


def test_images_that_are_not_square(cli, folder, npz):
    npz("wide.npz", [0, 1] * 5, [0, 1] * 3, size=(8, 12))
    settings = [f"--set={s}" for s in ("train.epochs=1", "data.train_images=10", "train.batch_size=5")]
    cli("finetune", "--recipe", "smoke", "--data", "wide.npz", "-o", "run", "--no-check", *settings)
    assert cli("check", "run/model.safetensors", "--data", "wide.npz", "--json", *QUICK)["n"] == 6


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS}")
def test_a_named_model_with_weights_is_checked_as_it_is(cli, folder):
    report = cli("check", "cifar_resnet20", "--weights", WEIGHTS, "--data", "digits", "--json", *QUICK)
    assert report["noise"]["sites"] == 0
    assert report["passed"]
    assert {row["noise"] for row in report["rows"]} == {"off"}


def test_output_and_embed(cli, refused, trained, folder):
    shutil.copy(trained.model, "copy.safetensors")
    report = cli("check", "copy.safetensors", *QUICK, "-o", "report.json", "--embed", "--json")
    assert json.loads(Path("report.json").read_text(encoding="utf-8")) == report
    kept = read_header("copy.safetensors").check
    assert (kept["n"], kept["data"]) == (10, "digits")
    assert "report.json exists already" in refused("check", "copy.safetensors", *QUICK, "-o", "report.json")


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "no fresh noise at conv1"), (0.001, "below θ_min"), (float("nan"), "not finite")]
)
def test_dead_noise_is_exit_status_3(value, said, trained, folder, capsys):
    dead = rewrite(trained.model, "dead.safetensors", lambda tensors: tensors["conv1.perturb.theta"].fill_(value))
    assert run(["check", dead, *QUICK, "--json"]) == 3
    out, err = capsys.readouterr()
    assert "Error" not in err
    report = json.loads(out)
    assert not report["passed"]
    assert any(said in failure for failure in report["noise"]["failures"])
    assert run(["check", dead, *QUICK, "-q"]) == 3
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
    for epsilon in ("0", "2", "8/0", "1e400", "x"):
        assert "--epsilon" in refused("check", trained.model, "--epsilon", epsilon, status=2)


def test_no_such_device(refused, trained):
    assert "no device 'cuda:99' here" in refused("check", trained.model, "--device", "cuda:99")


def test_other_named_models_and_weights(refused, trained):
    assert "no model 'resnet81'" in refused("check", "resnet81", "--data", "digits")
    assert "whole perturbify checkpoint" in refused(
        "check", "cifar_resnet20", "--data", "digits", "--weights", trained.model
    )
