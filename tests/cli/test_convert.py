"""``perturbify convert``: names and factories in, one file out."""

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import perturbify
from perturbify.checkpoint import read_header
from perturbify.cli.main import run

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "resnet20.safetensors"


@pytest.mark.parametrize(
    ("name", "sites"), [("resnet10t", 14), ("torchvision:squeezenet1_1", 26), ("cifar_resnet20", 19)]
)
def test_models_of_every_library(name, sites, cli, folder):
    said = cli("convert", name, "--json", "-q", "--grain", "layer", "-o", "out.safetensors")
    assert len(said["sites"]) == sites
    assert said["written"] == "out.safetensors"
    header = read_header("out.safetensors")
    assert header.model["weights"] == "fresh"
    assert len(header.sites) == sites
    assert header.normalize is not None
    assert len(list(perturbify.perturbations(perturbify.load("out.safetensors")))) == sites


def test_fresh_weights_follow_the_seed(cli, folder):
    for file, seed in (("a", 0), ("b", 0), ("c", 1)):
        cli("convert", "cifar_resnet20", "--seed", seed, "-o", f"{file}.safetensors")
    a, b, c = (load_file(f"{f}.safetensors")["conv1.weight"] for f in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_factory_in_the_working_directory(cli, folder):
    text = cli("convert", "factories:small", "--input-size", "3x8x8", "--model-arg", "num_classes=4")
    assert text.splitlines()[-1] == "written: small.perturbed.safetensors"
    assert "1 site, 256 entries of θ, 0 skipped" in text
    header = read_header("small.perturbed.safetensors")
    assert header.model == {"name": "factories:small", "kwargs": {"num_classes": 4}, "weights": "fresh"}
    loaded = perturbify.load("small.perturbed.safetensors", trust_factory=True)
    assert loaded(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_dry_run_prints_the_sites_and_writes_nothing(cli, folder):
    before = sorted(folder.iterdir())
    text = cli("convert", "cifar_resnet20", "--dry-run")
    assert text.splitlines()[0].split() == ["site", "kind", "feature", "map", "θ", "entries", "way", "modes"]
    assert "layer3.2.conv2" in text
    assert "19 sites, 188,416 entries of θ" in text
    said = cli("convert", "cifar_resnet20", "--dry-run", "--json")
    assert said["written"] is None
    assert said["theta_parameters"] == 188_416
    assert [p for p in sorted(folder.iterdir()) if p.name != "__pycache__"] == before


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS}")
def test_weights_of_a_file(cli, folder):
    said = cli(
        "convert", "cifar_resnet20", "--weights", WEIGHTS, "--grain", "channel", "-o", "out.safetensors", "--json"
    )
    assert {len(s["theta_shape"]) for s in said["sites"]} == {3}
    assert said["theta_parameters"] == 16 * 7 + 32 * 6 + 64 * 6
    assert read_header("out.safetensors").model["weights"].startswith("file:resnet20.safetensors (sha256 ")
    assert str(WEIGHTS.parent) not in json.dumps(vars(read_header("out.safetensors")))
    source, ours = load_file(WEIGHTS), load_file("out.safetensors")
    assert all(torch.equal(ours[key], value) for key, value in source.items())


def test_settings_reach_the_network(cli, folder):
    cli(
        *("convert", "factories:small", "--input-size", "3x8x8", "-o", "out.safetensors", "--draw-per", "batch"),
        *("--theta-init", "0.5", "--theta-min", "0.1", "--theta-per", "module", "--exclude", "nothing*", "-q"),
    )
    config = read_header("out.safetensors").config
    assert (config["draw_per"], config["theta_init"], config["theta_min"]) == ("batch", 0.5, 0.1)
    assert (config["theta_per"], config["exclude"], config["grain"]) == ("module", ["nothing*"], "element")


def test_data_gives_size_and_classes(cli, folder, npz):
    npz("mine.npz", [0, 1, 2] * 4, [0, 1, 2], size=(8, 12))
    cli("convert", "cifar_resnet20", "--data", "mine.npz", "-o", "out.safetensors")
    header = read_header("out.safetensors")
    assert header.classes == ["0", "1", "2"]
    assert [about["shape"] for about in header.inputs.values()] == [[3, 8, 12]]


def test_the_meaning_of_a_bare_name_is_printed(folder, capsys):
    assert run(["convert", "resnet18", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "model: resnet18 means timm:resnet18 (there is also torchvision:resnet18)" in said
    assert "weights: fresh" in said


def test_output_from_a_factory_goes_to_the_log(folder, capsys):
    arguments = ["convert", "factories:small", "--input-size", "3x8x8", "--json"]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["written"]
    assert "a factory that talks" in err
    assert run([*arguments, "--force", "-q"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["written"]
    assert err == ""


def test_only_force_replaces_an_existing_file(cli, refused, folder):
    arguments = ("convert", "factories:small", "--input-size", "3x8x8", "-o", "out.safetensors")
    Path("out.safetensors").write_bytes(b"mine")
    assert "out.safetensors already exists" in refused(*arguments)
    cli(*arguments, "--force")
    assert read_header("out.safetensors").sites


# What is refused


def test_an_unknown_model_suggests_the_nearest(refused):
    assert "no model 'resnet81'. Hint: Did you mean 'timm:resnet18'" in refused("convert", "resnet81")
    assert "'perturbify:cifar_resnet20'" in refused("convert", "cifar_resnet2")
    assert "has no 'smal'. Hint: Did you mean 'small'?" in refused("convert", "factories:smal")
    assert "no module 'factory'" in refused("convert", "factory:small")


def test_networks_that_cannot_be_converted(refused):
    size = ("--input-size", "3x8x8")
    assert "nothing to put noise behind" in refused("convert", "factories:no_convolutions", *size)
    assert "already wrapped" in refused("convert", "factories:wrapped", *size)
    assert "input size of factories:small is unknown. Hint: Set it: --input-size" in refused(
        "convert", "factories:small"
    )
    assert "19 of its sites are skipped" in refused("convert", "cifar_resnet20", "--exclude", "*")
    assert "fails on the example input" in refused("convert", "factories:small", "--input-size", "1x8x8")
    assert "no argument 'widht'. Hint: Did you mean 'width'" in refused(
        "convert", "cifar_resnet20", "--model-arg", "widht=2"
    )


def test_a_file_instead_of_a_name(refused, trained):
    said = refused("convert", trained.model, status=2)
    assert "is a file" in said
    assert "already converted" in said


def test_outputs_that_cannot_be_written(refused, folder, monkeypatch):
    assert "There is no folder nowhere" in refused("convert", "cifar_resnet20", "-o", "nowhere/out.safetensors")
    assert "no folder factories.py" in refused("convert", "cifar_resnet20", "-o", "factories.py/out.safetensors")
    (folder / "there").mkdir()
    assert "there is a folder" in refused("convert", "cifar_resnet20", "-o", "there")
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        assert "cannot be written to" in refused("convert", "cifar_resnet20", "-o", "out.safetensors")


def test_weights_that_do_not_fit(refused, folder, trained):
    assert "no weights file 'resnet20.safetensors'" in refused(
        "convert", "cifar_resnet20", "--weights", "resnet20.safetensors"
    )
    assert "whole perturbify checkpoint" in refused("convert", "cifar_resnet20", "--weights", trained.model)
    save_file({"a": torch.ones(1)}, "bare.safetensors")
    assert "does not fit this model" in refused("convert", "cifar_resnet20", "--weights", "bare.safetensors")
    Path("pickled.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "'pickled.pth'" in refused("convert", "cifar_resnet20", "--weights", "pickled.pth")


def test_pretrained_without_network_access_suggests_weights(refused, tmp_path_factory, monkeypatch):
    def no_network(*_, **__):
        raise socket.gaierror("no network in this test")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    for name in ("timm:resnet10t", "torchvision:resnet18"):
        said = refused("convert", name, "--pretrained", "--dry-run")
        assert "could not be fetched" in said
        assert "--weights FILE" in said
    assert "No library offers weights" in refused("convert", "cifar_resnet20", "--pretrained")


def test_settings_out_of_range(refused):
    for option, value in (
        ("--theta-init", "nan"),
        ("--theta-init", "0.001"),
        ("--theta-min", "-1"),
        ("--grain", "pixel"),
        ("--input-size", "224"),
        ("--num-classes", "0"),
        ("--model-arg", "width"),
    ):
        assert "Error: " in refused("convert", "cifar_resnet20", option, value, status=2)


def test_a_baseline_without_noise(cli, refused, folder):
    given = ("convert", "cifar_resnet20", "--method", "vanilla")
    assert "0 sites" in cli(*given, "--dry-run")
    cli(*given, "-o", "plain.safetensors")
    header = read_header("plain.safetensors")
    assert (header.method, header.config, header.sites) == ("vanilla", None, []) and header.normalize is not None
    model = perturbify.load("plain.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    assert "has no noise, so --grain does not apply" in refused(*given, "--grain", "layer", status=2)


def test_a_factory_gets_its_classes_by_model_arg(refused, folder):
    given = ("convert", "factories:small", "--input-size", "3x8x8", "--num-classes", "5")
    assert "your own factory takes --model-arg num_classes=5" in refused(*given, status=2)


def test_images_are_fitted_when_asked(cli, refused, folder, npz):
    data = npz("mine.npz", [0, 1], [0, 1], (8, 12))
    given = ("convert", "factories:small", "--data", data, "--model-arg", "num_classes=2", "-o", "out.safetensors")
    cli(*given, "--image-size", "6", "-q")
    assert read_header("out.safetensors").inputs == {"input": {"shape": [3, 6, 6]}}
    assert "--image-size fits the images of --data" in refused("convert", "resnet18", "--image-size", "6", status=2)
