"""``perturbify compare``: files and runs side by side, kept in a folder, gone on with, and refused."""

import csv
import importlib
import io
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
from safetensors.torch import save_file
from torch import nn

import perturbify
from perturbify import zoo
from perturbify.checks.compare import PLAN, compare
from perturbify.cli.curves import draw
from perturbify.cli.figures import COLOURS
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


def test_an_existing_folder_is_resumed_or_replaced(side_by_side, refused, files):
    whole = side_by_side("-o", "out")
    records = Path("out/noisy/records-0.jsonl")
    before = records.read_bytes()
    again = ("compare", files / "noisy.safetensors", "--data", "digits", *FEW, "-o", "out")
    assert "out already holds a comparison. Hint: Resume it: --resume" in refused(*again)
    assert timeless(side_by_side("-o", "out", "--resume")) == timeless(whole)
    assert records.read_bytes() == before, "nothing was done again"
    assert "noisy: out/noisy holds the records of another check, which differs in plan" in refused(
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


def test_the_adversary_comes_from_the_first_networks_recipe(cli, files, folder):
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


# Seeds, bare weights, formats


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two runs of one recipe and one of another, each in a folder of seeds. To be read only."""
    base = tmp_path_factory.mktemp("runs")
    few = ("--recipe", "smoke", "--model", "timm:test_resnet", "--no-check", "-q", "--set", "data.train_images=50")
    few += ("--set", "train.epochs=1", "--set", "train.warmup_epochs=0")
    assert run(["finetune", *few, "--seeds", "2", "-o", str(base / "noisy")]) == 0
    assert run(["finetune", *few, "--method", "vanilla", "--seeds", "0,", "-o", str(base / "vanilla")]) == 0
    return base


def test_folders_of_seeds(cli, runs):
    few = ("--attacks", "fgsm", "--json", "-q")
    found = cli("compare", runs / "vanilla", f"mine={runs / 'noisy'}", "--data", "digits", *FEW, *few)
    vanilla, mine = found["groups"]
    assert (vanilla["name"], vanilla["networks"], vanilla["seeds"]) == ("vanilla-seed-0", ["vanilla-seed-0"], [0])
    assert (mine["name"], mine["networks"], mine["seeds"]) == ("mine", ["mine-seed-0", "mine-seed-1"], [0, 1])
    accuracies = [n["figures"]["fgsm"]["accuracy"] for n in found["networks"] if n["group"] == "mine"]
    assert mine["figures"]["fgsm"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert vanilla["worst_case"]["sd"] is None and mine["worst_case"]["sd"] is not None
    singly = [runs / "noisy" / f"seed-{seed}" for seed in (1, 0)]
    again = cli("compare", *singly, runs / "vanilla", "--data", "digits", *FEW, *few)
    assert (again["groups"][0]["name"], again["groups"][0]["seeds"]) == ("noisy", [1, 0])
    assert [n["name"] for n in again["networks"]] == ["noisy-seed-1", "noisy-seed-0", "vanilla-seed-0"]


def test_an_unfinished_run_among_several(refused, runs, folder):
    shutil.copytree(runs / "noisy", "half")
    Path("half/seed-1/model.safetensors").unlink()
    assert "half/seed-1 has no model.safetensors" in refused("compare", "half", "--data", "digits", *FEW)


def bare(files, path, **metadata):
    """The weights of the plain network, as anybody's training leaves them."""
    plain = perturbify.unwrap(perturbify.load(files / "plain.safetensors"))
    save_file({k: v.contiguous() for k, v in plain.state_dict().items()}, path, metadata or None)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "go into the network as they are, in [0, 1] (GUESSED: as in noisy, which has the same architecture)"),
        (
            {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 1]"},
            "are normalised before the network: mean 0.1, 0.2, 0.3, std 1, 1, 1 (from the weights file's own mean and "
            "std)",
        ),
    ],
)
@pytest.mark.parametrize("model", [("--model", "timm:test_resnet"), ()], ids=["model", "as the other"])
def test_bare_weights_take_part(model, metadata, said, files, folder, capsys):
    bare(files, "mine.safetensors", **metadata)
    given = ["compare", str(files / "noisy.safetensors"), "plain=mine.safetensors", *model]
    assert run([*given, "--data", "digits", *map(str, FEW), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["networks"][1]
    assert (found["name"], found["method"], found["weights"], found["deterministic"]) == ("plain", None, WEIGHTS, True)
    assert f"plain, without noise: Pixels {said}" in err
    assert ("bare weights (plain) are taken as timm:test_resnet, like the other FILEs" in err) == (not model)
    assert "weights: file:mine.safetensors" in err
    assert ("warning: plain, without noise: this normalisation is a guess" in err) == (not metadata)


def test_the_weights_a_file_started_from(cli, called, files):
    bare(files, "mine.safetensors")
    constants = ("--mean", "0.25", "--std", "0.5")
    convert = ("convert", "timm:test_resnet", "--weights", "mine.safetensors", "--data", "digits")
    cli(*convert, *constants, "-o", "noisy.safetensors", "-q")
    done = called("compare", "plain=mine.safetensors", "noisy.safetensors", "--data", "digits", *FEW)
    assert done.status == 0, done.err
    said = "mean 0.25, 0.25, 0.25, std 0.5, 0.5, 0.5 (as in noisy, which started from these weights)"
    assert said in done.err and "warning" not in done.err
    given = called("compare", "plain=mine.safetensors", "noisy.safetensors", "--data", "digits", *FEW, "--no-normalize")
    assert "plain, without noise: Pixels go into the network as they are, in [0, 1] (as given)" in given.err


def test_bare_weights_with_several_models(refused, cli, files, folder):
    bare(files, "mine.safetensors")
    cli("convert", "cifar_resnet20", "--data", "digits", "-o", "other.safetensors", "-q")
    said = refused("compare", "mine.safetensors", files / "noisy.safetensors", "other.safetensors", "--data", "digits")
    assert "mine.safetensors holds bare weights, and the other FILEs are of several models" in said


def test_bare_weights_are_normalised_like_the_dataset(folder, capsys, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    small = importlib.import_module("factories").small
    torch.save(small().state_dict(), "small.pth")
    capsys.readouterr()  # of a factory that talks
    arguments = ("compare", "a=small.pth", "--model", "factories:small", "--model-arg", "num_classes=10")
    assert run([*arguments, "--data", "digits", *map(str, FEW), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["networks"][0]["figures"]["clean"] and "GUESSED from the statistics of digits" in err


def test_a_network_converted_without_noise_predicts_the_same(cli, files, folder):
    bare(files, "mine.safetensors", mean="[0.1, 0.2, 0.3]", std="[1, 1, 1]")
    convert = ("convert", "timm:test_resnet", "--method", "none", "--weights", "mine.safetensors", "--data", "digits")
    assert cli(*convert, "-o", "plain.safetensors", "--json", "-q")["sites"] == []
    given = ("compare", "converted=plain.safetensors", "bare=mine.safetensors", "--model", "timm:test_resnet")
    converted, bare_ = cli(*given, "--data", "digits", *FEW, "--json", "-q")["networks"]
    assert converted["method"] == "none" and converted["figures"] == bare_["figures"]


def test_formats(cli, runs):
    given = ("compare", runs / "vanilla", runs / "noisy", "--data", "digits", *FEW, "--attacks", "fgsm")
    given += ("-o", "out", "--resume", "-q")
    tex = cli(*given, "--format", "latex")
    assert tex.startswith("% \\usepackage{booktabs}\n\\begin{table}") and tex.endswith("\\end{table}\n")
    assert "training runs (seeds 0, 1 of noisy)" in tex
    lines = cli(*given, "--format", "markdown").splitlines()
    assert lines == Path("out/comparison.md").read_text(encoding="utf-8").splitlines()[: len(lines)]
    assert "| noisy | learn2perturb |" in "\n".join(lines) and "| · seed 1 |" in "\n".join(lines)
    rows = list(csv.DictReader(io.StringIO(cli(*given, "--format", "csv"), newline="")))
    assert {(r["network"], r["seed"]) for r in rows} == {
        ("vanilla-seed-0", "0"),
        ("noisy-seed-0", "0"),
        ("noisy-seed-1", "1"),
    }


def test_attacks_and_radii_are_chosen(cli, side_by_side, files):
    found = side_by_side("--attacks", "margin,square", "-o", "out")
    assert list(found["networks"][0]["figures"]) == ["clean", "margin", "square"]
    assert found["networks"][0]["curves"] == {} and not Path("out/comparison.png").exists()
    found = side_by_side("--attacks", "fgsm,pgd", "--epsilons", "2/255,0.1,8/255", "-o", "curve")
    assert [p["epsilon"] for p in found["networks"][1]["curves"]["PGD-1"]] == pytest.approx([0, 2 / 255, 8 / 255, 0.1])
    assert list(found["networks"][1]["figures"]) == ["clean", "fgsm", "pgd", "twin-pgd"]
    with Image.open("curve/comparison.png") as picture:
        assert picture.width > picture.height
    side_by_side("--attacks", "fgsm", "-o", "one")
    assert Path("one/comparison.png").exists()


# What is refused


def test_unknown_attacks_and_invalid_radii(refused, files):
    plain = ("compare", files / "plain.safetensors", "--data", "digits")
    assert "There is no attack 'pdg'. Did you mean 'pgd'" in refused(*plain, "--attacks", "pdg", status=2)
    assert "There is no attack 'foo'. There are fgsm, " in refused(*plain, "--attacks", "foo", status=2)
    assert "--attacks names no attack" in refused(*plain, "--attacks", ",", status=2)
    said = refused(*plain, "--attacks", "pgd", "--epsilons", "2/255", status=2)
    assert "The curve over ε needs fgsm and pgd, but fgsm was not requested: name both" in said
    for epsilons, why in (("0", "outside"), ("2/255,x", "'x' is not a number"), (",", "it names no ε")):
        assert why in refused(*plain, "--epsilons", epsilons, status=2)
    assert "are two formats" in refused(*plain, "--json", "--format", "csv", status=2)


def test_bare_weights_that_name_no_model(refused, files, folder):
    bare(files, "mine.safetensors")
    plain, more = files / "plain.safetensors", ("--data", "digits", *FEW)
    assert "holds bare weights" in refused("compare", "mine.safetensors", *more)
    assert "--model is for bare weights" in refused("compare", plain, "--model", "cifar_resnet20", *more, status=2)
    assert "--model-arg" in refused("compare", plain, "--model-arg", "width=2", *more, status=2)
    said = refused("compare", "mine.safetensors", "--model", "cifar_resnet20", *more)
    assert "does not fit this model" in said


def test_runs_of_other_data(refused, runs, files, folder):
    recipe = (Path(perturbify.__file__).parents[1] / "recipes" / "smoke.toml").read_text(encoding="utf-8")
    model = perturbify.load(files / "plain.safetensors")
    perturbify.save(model, "other.safetensors", recipe=recipe.replace('"digits"', '"cifar10"'))
    said = refused("compare", runs / "noisy", "other.safetensors", "--data", "digits", *FEW)
    assert "other was trained on cifar10, but noisy-seed-0 on digits" in said


def test_a_file_named_twice_is_no_second_run(refused, runs, files, folder):
    (folder / "link.safetensors").symlink_to(files / "plain.safetensors")
    more = ("--data", "digits", *FEW)
    said = refused("compare", runs / "noisy", f"again={runs / 'noisy'}", *more)
    assert "noisy-seed-0 and again-seed-0 are the same file" in said and "Name each network once" in said
    said = refused("compare", files / "plain.safetensors", "link.safetensors", *more)
    assert "plain and link are the same file" in said


def test_data_that_do_not_fit(refused, cli, files, npz):
    npz("two.npz", [0, 1] * 3, [0, 1])
    npz("large.npz", list(range(10)) * 2, list(range(10)), size=(12, 12))
    networks = ("compare", files / "plain.safetensors", *FEW)
    assert "plain: The network has 10 classes, but the data have 2" in refused(*networks, "--data", "two.npz")
    said = refused(*networks, "--data", "large.npz")
    assert (
        "plain was made for images of 3×8×8, but those of npz:large are 3×12×12. Hint: Fit them: --image-size 8" in said
    )
    assert cli(*networks, "--data", "large.npz", "--image-size", 8, "--json")["n"] == 4
    noisy = ("compare", files / "plain.safetensors", files / "noisy.safetensors", *FEW)
    said = refused(*noisy, "--data", "large.npz", "--image-size", 12)  # the plain one takes them
    assert "Error: noisy: θ of conv1.0 was made for inputs of 3×8×8" in said
    assert "'nowhere'" in refused(*networks, "--data", "nowhere")


def test_inputs_that_are_not_networks(refused, files, folder):
    (folder / "empty").mkdir()
    plain = files / "plain.safetensors"
    more = ("--data", "digits", *FEW)
    assert "folder empty has no model.safetensors" in refused("compare", plain, "empty", *more)
    assert "no file nowhere" in refused("compare", plain, "nowhere", *more)
    assert "factories.py" in refused("compare", "factories.py", *more)
    assert "'a/b' cannot be a network's name" in refused("compare", f"a/b={plain}", *more, "-o", "out")
    assert "Two networks have the name 'a'" in refused("compare", f"a={plain}", f"a={plain}", *more, status=2)


def test_contradictory_options(refused, files, folder):
    plain = files / "plain.safetensors"
    assert "-o FOLDER" in refused("compare", plain, "--data", "digits", "--resume", status=2)
    assert "--data" in refused("compare", plain, status=2)
    assert "FILE|RUN|RUNS" in refused("compare", "--data", "digits", status=2)
    assert "no device 'cuda:99' here" in refused("compare", plain, "--data", "digits", "--device", "cuda:99")


def test_without_matplotlib_there_is_no_plot(files, folder, monkeypatch, capsys):
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
        filled = [d for d in axes.get_lines() if d.get_markerfacecolor() != "white"]
        for entry, drawn in zip(found.entries, filled, strict=True):
            curve = entry.curve(line)
            assert list(drawn.get_xdata()) == pytest.approx([255 * epsilon for epsilon, _ in curve], abs=0.7)
            assert list(drawn.get_ydata()) == [100 * row.accuracy for _, row in curve]
        left = [d.get_xdata()[0] for d in filled]
        assert left == sorted(set(left)), "side by side"
    looks = {(d.get_color(), d.get_marker(), d.get_linestyle()) for d in filled}
    assert len(looks) == len(names) > len(COLOURS)
    (eot,) = [d for d in pgd.get_lines() if d.get_markerfacecolor() == "white"]
    assert list(eot.get_ydata()) == [100 * found.entries[1].figures["eot"].accuracy]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(legend) == len(names) and "a \\$name\\$ o…irty-two characters" in " ".join(legend)
    shown = [float(text.split()[0]) for text in legend]
    assert shown == sorted(shown, reverse=True) and shown[0] > shown[-1]
    colours = dict(zip(legend, (h.get_color() for h in figure.legends[0].legend_handles), strict=True))
    assert [colours["0.0  biased"], colours[f"{shown[0]}  plain 0"]] == [COLOURS[0], COLOURS[2]]
    figure.savefig(os.devnull, format="png")
