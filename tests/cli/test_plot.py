"""``perturbify plot``: a real run becomes a picture, and whatever stands in the way is one sentence."""

import shutil
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from perturbify.cli.plot import draw
from perturbify.training.folder import RunFolder

CLEAN, ATTACKED = "#1b5fbf", "#bf3b0b"


def colours(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size, {c[:3]: n for n, c in picture.convert("RGB").getcolors(1 << 20)}


@pytest.fixture
def run(trained, folder):
    shutil.copytree(trained.path, "run")
    return Path("run")


def test_a_run_is_plotted(cli, run):
    said = cli("plot", "run", "--json")
    assert said == {"picture": "run/training.png", "epochs": 2, "of": 2}
    (width, height), seen = colours(run / "training.png")
    assert (width, height) == (1200, 1170)
    for colour in (CLEAN, ATTACKED, "#222222"):
        assert seen.get(ImageColor.getrgb(colour), 0) > 20, colour
    assert "2 of 2 epochs" in cli("plot", "run")  # as it goes on, it is drawn again


def test_without_noise_no_theta_is_drawn(cli, folder):
    cli("finetune", "--recipe", "smoke", "--set", "method=vanilla", "--no-check", "-q", "-o", "run")
    cli("plot", "run", "-o", "plain.png")
    (width, height), seen = colours("plain.png")
    assert (width, height) == (1200, 630) and seen[ImageColor.getrgb(ATTACKED)] > 20
    run = RunFolder(Path("run"))
    figure = Figure()
    draw(figure, run.read_metrics(), run.read_recipe())
    assert [axes.get_title("left") for axes in figure.axes] == [
        "Cross-entropy on training images",
        "Accuracy, % on training images",
    ]


def test_an_existing_file_is_not_replaced_by_default(cli, refused, run):
    Path("mine.png").write_text("precious")
    assert "mine.png already exists" in refused("plot", "run", "-o", "mine.png")
    assert Path("mine.png").read_text() == "precious"
    cli("plot", "run", "-o", "mine.png", "--force")
    colours("mine.png")


@pytest.mark.parametrize(("name", "begins"), [("figure.pdf", b"%PDF-"), ("figure.svg", b"<?xml")])
def test_the_file_extension_sets_the_format(name, begins, cli, run):
    cli("plot", "run", "-o", name)
    assert Path(name).read_bytes().startswith(begins)


def test_another_format(refused):
    said = refused("plot", "run", "-o", "figure.txt", status=2)
    assert "figure.txt has an unknown format: end its name in .png, .pdf, .svg" in said


def test_nothing_to_draw_yet(refused, run):
    assert "nowhere holds no run" in refused("plot", "nowhere")
    (run / "metrics.jsonl").unlink()
    assert "has not finished its first epoch" in refused("plot", "run")


def test_without_matplotlib(refused, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'perturbify[plot]'" in refused("plot", "run")
