"""``perturbify certify``: a PixelDP file becomes a table, three files, and refusals in one sentence."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageColor

import perturbify
from perturbify import data, zoo
from perturbify.certification import find_mechanism
from perturbify.cli.certificates import draw, markdown
from perturbify.cli.main import run
from perturbify.normalize import Normalize

FEW = ("--data", "digits", "--images", "20", "--draws", "40", "--batch-size", "8")
FILES = {"certificate.json", "certificate.md", "certificate.png"}


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    """A ResNet-20 with PixelDP's noise that has seen the digits once. To be read only."""
    torch.manual_seed(0)
    digits = data.load("digits")
    network = perturbify.wrap(
        zoo.create("cifar_resnet20", num_classes=10),
        method="pixeldp",
        example_input=torch.rand(2, 3, 8, 8),
        normalize=Normalize(digits.mean, digits.std),
    ).train()
    optimiser = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), lr=3e-3)
    for x, y in digits.train.batches(64, order=torch.randperm(len(digits.train))):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
        find_mechanism(network).limit_(1.0)
    path = tmp_path_factory.mktemp("pixeldp") / "dp.safetensors"
    perturbify.save(network, path, classes=list(digits.classes), method="pixeldp")
    return path


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    path = tmp_path_factory.mktemp("learn2perturb") / "l2p.safetensors"
    perturbify.save(perturbify.wrap(zoo.create("cifar_resnet20"), example_input=torch.rand(2, 3, 8, 8)), path)
    return path


@pytest.fixture(scope="session")
def found(file, tmp_path_factory):
    """What the command says as JSON, and keeps. To be read only."""
    path = tmp_path_factory.mktemp("certified") / "out"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["certify", str(file), *FEW, "-o", str(path), "--json", "-q"]) == 0
    return SimpleNamespace(said=json.loads(out.getvalue()), folder=path)


def test_the_figures_follow_from_the_images(found):
    said, images = found.said, found.said["images"]
    assert (said["name"], said["method"], said["dataset"], said["n"]) == ("dp.safetensors", "pixeldp", "digits", 20)
    assert (said["draws"], said["confidence"], said["seed"], said["delta"]) == (40, 0.95, 0, 0.05)
    assert said["sigma"] == pytest.approx(0.2537, abs=1e-4)
    assert 0.99 < said["sensitivity"] <= 1
    assert said["greatest_radius"] == pytest.approx(0.1, rel=1e-4)
    labels = data.load("digits").test.labels
    assert [i["label"] for i in images] == labels[[i["index"] for i in images]].tolist()
    assert sorted(i["label"] for i in images) == sorted([*range(10)] * 2)
    earned = []
    for image in images:
        assert sum(image["votes"]) == 40 and image["votes"][image["class"]] == max(image["votes"])
        assert 0 <= image["radius"] <= said["greatest_radius"]
        assert image["certain"] or image["radius"] == 0
        earned.append(image["radius"] if image["class"] == image["label"] else 0)
    assert said["accuracy"] == sum(i["class"] == i["label"] for i in images) / 20 > 0.4
    assert said["abstentions"] == sum(not i["certain"] for i in images) / 20
    assert said["median_radius"] == pytest.approx((sorted(earned)[9] + sorted(earned)[10]) / 2)
    assert [row["radius"] for row in said["certified"]] == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1], rel=1e-4)
    for row in said["certified"]:
        assert row["accuracy"] == sum(e > 0 and e >= row["radius"] for e in earned) / 20
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
    assert 0.2 < said["certified"][0]["accuracy"] > said["certified"][-1]["accuracy"]


def test_saved_files(cli, refused, file, found, folder):
    assert {p.name for p in found.folder.iterdir()} == FILES
    assert json.loads((found.folder / "certificate.json").read_text(encoding="utf-8")) == found.said
    page = (found.folder / "certificate.md").read_text(encoding="utf-8")
    assert page.startswith("# Certified robustness of dp.safetensors on 20 test images of digits\n")
    for row in found.said["certified"]:
        assert f"| {row['radius']:.4g} | {100 * row['accuracy']:.1f} [" in page
    with Image.open(found.folder / "certificate.png") as picture:
        colours = {c[:3]: n for n, c in picture.convert("RGB").getcolors(1 << 20)}
    assert colours[ImageColor.getrgb("#1b5fbf")] > 200
    shutil.copytree(found.folder, "out")
    assert "certificate.json already exists" in refused("certify", file, *FEW, "-o", "out")
    again = cli("certify", file, *FEW, "--seed", "1", "-o", "out", "--force", "--json")
    assert json.loads(Path("out/certificate.json").read_text(encoding="utf-8")) == again
    assert [i["votes"] for i in again["images"]] != [i["votes"] for i in found.said["images"]]


def test_the_curve_is_the_certified_accuracy(found):
    figure = Figure()
    draw(figure, found.said)
    (axes,) = figure.axes
    radii, heights = axes.lines[0].get_data()
    assert list(heights) == sorted(heights, reverse=True)
    for row in found.said["certified"]:  # a step's value holds up to its right end
        height = next((h for r, h in zip(radii, heights, strict=True) if r >= row["radius"]), 0)
        assert height == pytest.approx(100 * row["accuracy"])


def test_as_text(cli, found, file):
    text = cli("certify", file, *FEW, "-q")
    lines = text.splitlines()
    assert lines[0] == "Certified robustness of dp.safetensors on 20 test images of digits"
    for row in found.said["certified"]:
        assert any(
            line.startswith(f"{row['radius']:.4g} ") and f" {100 * row['accuracy']:.1f} [" in line for line in lines
        )
    for words in ("right by majority vote", "abstentions", "median certified radius", "σ 0.2537", "40 draws, 95%"):
        assert words in text


def test_progress_and_radii(file, capsys):
    assert run(["certify", str(file), *FEW, "--draws", "3", "--radii", "0.1, 1/100", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [row["radius"] for row in json.loads(out)["certified"]] == [0.01, 0.1]
    assert [line.split(",")[0] for line in err.splitlines() if line.startswith("certified")] == [
        f"certified: {done} of 20 images" for done in (8, 16, 20)
    ]
    assert err.endswith("20 of 20 images, 0 s left\n")
    assert run(["certify", str(file), *FEW, "--draws", "3", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_without_matplotlib(file, folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(["certify", str(file), *FEW, "--draws", "3", "-o", "out"]) == 0
    assert "certificate.png, for want of matplotlib" in capsys.readouterr().err
    assert {p.name for p in Path("out").iterdir()} == FILES - {"certificate.png"}


def test_names_that_contain_markdown_syntax():
    values = dict.fromkeys(("draws", "seed", "n"), 1) | {"name": "a_b", "dataset": "npz:x|y", "certified": []}
    figures = dict.fromkeys(("accuracy", "abstentions", "median_radius", "greatest_radius", "sigma", "delta"), 0.5)
    values |= figures | {"sensitivity": 1.0, "interval": [0.0, 1.0], "confidence": 0.95, "seconds": 1.0}
    assert r"of a\_b on 1 test images of npz:x\|y" in markdown(values)


def test_what_is_refused(refused, file, other, npz, folder):
    said = refused("certify", other, *FEW, "-o", "out")
    assert "the method of this network is learn2perturb." in said and "--method pixeldp" in said
    npz("two.npz", [0, 1] * 3, [0, 1])
    assert "10 classes apart, the data have 2" in refused("certify", file, "--data", "two.npz", "-o", "out")
    assert "no file nowhere.safetensors" in refused("certify", "nowhere.safetensors", *FEW)
    Path("file").write_text("")
    assert "file" in refused("certify", file, *FEW, "-o", "file/out")
    assert "elsewhere" in refused("certify", file, "--data", "cifar10", "--data-root", "elsewhere")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--radii", "0,far"), "not a list of numbers"),
        (("--radii", "-0.1"), "negative"),
        (("--confidence", "1"), "confidence"),
        (("--force",), "-o FOLDER"),
        (("--draws", "0"), "draws"),
    ],
)
def test_usage_errors(refused, file, arguments, said):
    assert said in refused("certify", file, *FEW, *arguments, status=2)


def test_the_dataset_must_be_given(refused, file):
    assert "--data" in refused("certify", file, status=2)
