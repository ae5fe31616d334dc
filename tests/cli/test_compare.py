"""``perturbify compare``: files and runs side by side, kept in a folder, gone on with, and refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from torch import nn

import perturbify
from perturbify import zoo
from perturbify.checks.compare import PLAN, compare
from perturbify.cli.curves import COLOURS, MARKERS, draw
from perturbify.cli.main import run
from perturbify.data.split import MemorySplit

FEW = ("--images", "4", "--steps", "1", "--eot-draws", "2", "--draws", "3", "--epsilon", "0.1")
WEIGHTS, THETA = 373_658, 2_192  # timm's test_resnet with ten classes, for images of 8×8


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files of a noisy network, its baseline and one with dead noise, for images of 8×8. To be read only."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    net = zoo.create("timm:test_resnet", num_classes=10)
    example = torch.rand(2, 3, 8, 8)
    noisy = perturbify.wrap(net, example_input=example)
    perturbify.save(noisy, folder / "noisy.safetensors")
    perturbify.save(perturbify.wrap(net, None, method="none", example_input=example), folder / "plain.safetensors")
    for _, module in perturbify.perturbations(noisy):
        module.theta.data.fill_(1e-30)  # too small to change anything
    perturbify.save(noisy, folder / "dead.safetensors")
    return folder


@pytest.fixture
def side_by_side(cli, files):
    """Compares two of the files on digits, as JSON."""

    def side_by_side(*more):
        networks = (files / "noisy.safetensors", files / "plain.safetensors")
        return cli("compare", *networks, "--data", "digits", *FEW, *more, "--json")

    return side_by_side


def timeless(comparison):
    networks = [network | {"latency": None} for network in comparison["networks"]]
    return comparison | {"networks": networks}


def test_two_files(cli, side_by_side):
    found = side_by_side("-o", "out")
    assert found["schema"] == 3 and (found["dataset"], found["n"], found["classes"]) == ("digits", 4, 10)
    assert (found["epsilon"], found["steps"], found["step_size"]) == (0.1, 1, pytest.approx(0.01 * 0.1 * 255 / 8))
    noisy, plain = found["networks"]
    assert [(n["name"], n["method"]) for n in (noisy, plain)] == [("noisy", "learn2perturb"), ("plain", "none")]
    assert noisy["weights"] == plain["weights"] == WEIGHTS and (noisy["theta"], plain["theta"]) == (THETA, 0)
    assert all(noisy["figures"][key] for key in ("clean", "fgsm", "pgd", "margin", "eot", "twin-pgd"))
    assert noisy["figures"]["eot"]["attack"] == "EOT-PGD-1, 2 draws"
    assert noisy["figures"]["pgd"]["draws"] == 3 and noisy["figures"]["twin-pgd"]["noise"] == "off"
    assert plain["deterministic"] and plain["figures"]["eot"] is plain["figures"]["twin-clean"] is None
    first, second = found["groups"]
    assert ([first["name"], second["name"]], first["ahead"]) == (["noisy", "plain"], None)
    lead = plain["worst_case"]["value"] - noisy["worst_case"]["value"]
    assert second["ahead"]["value"] == pytest.approx(lead)
    assert [p["epsilon"] for p in noisy["curves"]["FGSM"]] == pytest.approx([0, 0.025, 0.05, 0.1, 0.15, 0.2])
    assert noisy["latency"]["milliseconds"] > 0 and found["machine"]["threads"] == torch.get_num_threads()
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    documented = (*found, *noisy, *noisy["figures"], *noisy["figures"]["pgd"], *second["ahead"], *noisy["latency"])
    documented += (*second, *second["worst_case"])
    assert [key for key in documented if f"`{key}`" not in page] == []
    out = Path("out")
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8")) == found
    assert f"| noisy | learn2perturb | {WEIGHTS:,} | {THETA:,} |" in (out / "comparison.md").read_text(encoding="utf-8")
    with Image.open(out / "comparison.png") as picture:
        colours = {c[:3]: n for n, c in picture.convert("RGB").getcolors(1 << 20)}
        assert picture.format == "PNG" and picture.width > 2 * picture.height
    assert all(colours.get(ImageColor.getrgb(colour), 0) > 200 for colour in COLOURS[:2])
    for name in ("noisy", "plain"):
        report = json.loads((out / name / "report.json").read_text(encoding="utf-8"))
        assert (report["name"], report["n"]) == (name, 4)


def test_a_folder_is_gone_on_with_or_replaced(side_by_side, refused, files):
    whole = side_by_side("-o", "out")
    records = Path("out/noisy/records-0.jsonl")
    before = records.read_bytes()
    again = ("compare", files / "noisy.safetensors", "--data", "digits", *FEW, "-o", "out")
    assert "out holds a comparison already. Hint: Go on with it: --resume" in refused(*again)
    assert timeless(side_by_side("-o", "out", "--resume")) == timeless(whole)
    assert records.read_bytes() == before, "nothing was done again"
    assert "noisy: out/noisy holds the records of another check: another plan" in refused(
        *again, "--resume", "--seed", 1
    )
    replaced = side_by_side("-o", "out", "--force", "--seed", 1)
    assert replaced["seed"] == 1 and records.read_bytes() != before


def test_killed_and_resumed(side_by_side, files):
    whole = side_by_side("--batch-size", 2)
    networks = (files / "noisy.safetensors", files / "plain.safetensors")
    arguments = map(str, ("compare", *networks, "--data", "digits", *FEW, "--batch-size", 2, "-o", "out"))
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    records = Path("out/noisy/records-0.jsonl")
    while not records.exists() or len(records.read_text(encoding="utf-8").splitlines()) < 8:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not Path("out/comparison.json").exists()
    assert timeless(side_by_side("--batch-size", 2, "-o", "out", "--resume")) == timeless(whole)


def test_progress_and_text(files, folder, capsys):
    networks = (files / "noisy.safetensors", f"baseline={files / 'plain.safetensors'}")
    assert run(["compare", *map(str, networks), "--data", "digits", *FEW]) == 0
    out, err = capsys.readouterr()
    for said in (
        r"noisy, 1 of 2: \d+ batches, about \d+ s",
        r"baseline, 2 of 2: \d+ batches",
        r"checked: baseline: FGSM",
    ):
        assert re.search(said, err), said
    assert re.search(rf"^noisy .*{WEIGHTS:,} +{THETA:,}", out, flags=re.MULTILINE)
    assert re.search(r"^baseline +\d+\.\d \[", out, flags=re.MULTILINE) and "ahead of noisy" in out
    assert run(["compare", str(networks[0]), "--data", "digits", *FEW, "-q"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("4 test images of digits") and "ahead" not in out


def test_names(cli, files, folder):
    for number in (1, 2):
        (folder / f"group{number}" / "run").mkdir(parents=True)
        shutil.copy(files / "plain.safetensors", folder / f"group{number}" / "run" / "model.safetensors")
    shutil.copy(files / "plain.safetensors", folder / "a=b.safetensors")
    networks = ("group1/run", "group2/run/model.safetensors", f"run-2={files / 'plain.safetensors'}", "a=b.safetensors")
    found = cli("compare", *networks, "--data", "digits", "--images", 2, "--steps", 1, "--json")
    assert [n["name"] for n in found["networks"]] == ["run", "run-3", "run-2", "a=b"]


def test_the_adversary_is_that_of_the_first_networks_recipe(cli, files, folder):
    recipe = (Path(perturbify.__file__).parents[1] / "recipes" / "smoke.toml").read_text(encoding="utf-8")
    model = perturbify.load(files / "plain.safetensors")
    perturbify.save(model, "trained.safetensors", recipe=recipe)
    few = ("--data", "digits", "--images", 2, "--json")
    found = cli("compare", "trained.safetensors", files / "plain.safetensors", *few)
    said = perturbify.recipe.from_toml(recipe, "smoke").check
    assert (found["epsilon"], found["step_size"], found["steps"]) == (said.epsilon, said.step_size, said.steps)
    assert (said.epsilon, said.steps) != (PLAN.epsilon, PLAN.steps)
    found = cli("compare", "trained.safetensors", *few, "--epsilon", said.epsilon / 4)
    assert (found["epsilon"], found["step_size"]) == (said.epsilon / 4, said.step_size / 4)
    found = cli("compare", files / "plain.safetensors", "trained.safetensors", *few, "--steps", 2)
    assert (found["epsilon"], found["step_size"], found["steps"]) == (PLAN.epsilon, PLAN.step, 2)


def test_dead_noise_is_exit_status_3(files, folder, capsys):
    networks = [str(files / f"{name}.safetensors") for name in ("plain", "dead")]
    assert run(["compare", *networks, "--data", "digits", *FEW, "-o", "out"]) == 3
    assert "dead FAILED the noise is alive: no fresh noise at " in capsys.readouterr().out
    assert Path("out/comparison.json").exists()


def test_a_factory_is_run_only_if_trusted(cli, refused, folder):
    cli("convert", "factories:small", "--input-size", "3x8x8", "-o", "own.safetensors")
    arguments = ("compare", "own.safetensors", "--data", "digits", *FEW)
    assert "--trust-factory" in refused(*arguments)
    assert cli(*arguments, "--trust-factory", "--json")["networks"][0]["name"] == "own"


# What is refused


def test_data_that_do_not_fit(refused, cli, files, npz):
    npz("two.npz", [0, 1] * 3, [0, 1])
    npz("large.npz", list(range(10)) * 2, list(range(10)), size=(12, 12))
    networks = ("compare", files / "plain.safetensors", *FEW)
    assert "plain: The network tells 10 classes apart, the data have 2" in refused(*networks, "--data", "two.npz")
    said = refused(*networks, "--data", "large.npz")
    assert "plain was made for images of 3×8×8, those of npz:large are 3×12×12. Hint: Fit them: --image-size 8" in said
    assert cli(*networks, "--data", "large.npz", "--image-size", 8, "--json")["n"] == 4
    noisy = ("compare", files / "plain.safetensors", files / "noisy.safetensors", *FEW)
    said = refused(*noisy, "--data", "large.npz", "--image-size", 12)  # the plain one takes them
    assert "Error: noisy: θ of conv1.0 was made for inputs of 3×8×8" in said
    assert "'nowhere'" in refused(*networks, "--data", "nowhere")


def test_networks_that_are_none(refused, files, folder):
    (folder / "empty").mkdir()
    plain = files / "plain.safetensors"
    more = ("--data", "digits", *FEW)
    assert "folder empty holds no model.safetensors" in refused("compare", plain, "empty", *more)
    assert "no file nowhere" in refused("compare", plain, "nowhere", *more)
    assert "factories.py" in refused("compare", "factories.py", *more)
    assert "called 'a/b'" in refused("compare", f"a/b={plain}", *more, "-o", "out")
    assert "Two networks are called 'a'" in refused("compare", f"a={plain}", f"a={plain}", *more, status=2)


def test_options_that_contradict_each_other(refused, files, folder):
    plain = files / "plain.safetensors"
    assert "-o FOLDER" in refused("compare", plain, "--data", "digits", "--resume", status=2)
    assert "--data" in refused("compare", plain, status=2)
    assert "FILE|RUN|RUNS" in refused("compare", "--data", "digits", status=2)
    assert "no device 'cuda:99' here" in refused("compare", plain, "--data", "digits", "--device", "cuda:99")


def test_without_matplotlib_there_is_no_picture(files, folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ("compare", files / "plain.safetensors", "--data", "digits", "--images", 2, "--steps", 1, "-o", "out")
    assert run([str(a) for a in arguments]) == 0
    assert "pip install 'perturbify[plot]'" in capsys.readouterr().err
    assert {p.name for p in Path("out").iterdir()} == {"comparison.json", "comparison.md", "plain"}


# The picture


def test_ten_networks_are_told_apart(files):
    noisy, plain, biased = (perturbify.load(files / f"{name}.safetensors") for name in ("noisy", "plain", "plain"))
    next(m for m in biased.modules() if isinstance(m, nn.Linear)).bias.data[9] = 100.0
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    answers = plain(images / 255).argmax(1)
    assert 9 not in answers
    split = MemorySplit(images, answers)
    names = [
        "biased",
        "noisy",
        *(f"plain {i}" for i in range(6)),
        "a $name$ of more than thirty-two characters",
        "last",
    ]
    networks = {name: {"biased": biased, "noisy": noisy}.get(name, plain) for name in names}
    plan = replace(PLAN, steps=1, eot_draws=2, draws=2)
    found = compare(networks, split, plan)
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    draw(figure, found)
    fgsm, pgd = figure.axes
    assert [axes.get_title("left") for axes in (fgsm, pgd)] == ["Accuracy under FGSM, %", "Accuracy under PGD-1, %"]
    for axes, line in ((fgsm, "FGSM"), (pgd, "PGD-1")):
        for entry, drawn in zip(found.entries, axes.get_lines(), strict=False):
            curve = entry.curve(line)
            assert list(drawn.get_xdata()) == [255 * epsilon for epsilon, _ in curve]
            assert list(drawn.get_ydata()) == [100 * row.accuracy for _, row in curve]
    looks = {(d.get_color(), d.get_marker(), d.get_linestyle()) for d in pgd.get_lines()[: len(names)]}
    assert len(looks) == len(names) > len(COLOURS) == len(MARKERS)
    (eot,) = [d for d in pgd.get_lines() if d.get_markerfacecolor() == "white"]
    assert list(eot.get_ydata()) == [100 * found.entries[1].figures["eot"].accuracy]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(legend) == len(names) and "a \\$name\\$ of more than thirty-tw…" in " ".join(legend)
    shown = [float(text.split()[0]) for text in legend]
    assert shown == sorted(shown, reverse=True) and shown[0] > shown[-1]
    colours = dict(zip(legend, (h.get_color() for h in figure.legends[0].legend_handles), strict=True))
    assert [colours["0.0  biased"], colours[f"{shown[0]}  plain 0"]] == [COLOURS[0], COLOURS[2]]
    figure.savefig(os.devnull, format="png")
