"""``perturbify reproduce``: tiny tables of the digits, killed and given again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from perturbify import recipe
from perturbify.attacks.libraries import CarliniWagner
from perturbify.checkpoint import read_header
from perturbify.checks import Report
from perturbify.checks.results import Figure
from perturbify.cli.main import cli as group
from perturbify.errors import TrainingError
from perturbify.reproduction.paper import TABLES
from perturbify.text import percent
from perturbify.training import launch
from perturbify.training.owned import is_ours

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "resnet20.safetensors"
TABLE1 = ("reproduce", "table1", "--equal-schedule", "smoke", "--networks", "cifar_resnet20", "--images", "20")
TINY = (*TABLE1, "--budget", "2", "--methods", "none,vanilla,learn2perturb")
ONE = (*TABLE1, "--budget", "1", "--methods", "none")
NAMES = ("cifar_resnet20-none", "cifar_resnet20-vanilla", "cifar_resnet20-learn2perturb")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished reproduction, to be read only, and its result as --json gives it."""
    folder, threads = tmp_path_factory.mktemp("undisturbed") / "table1", torch.get_num_threads()
    torch.set_num_threads(1)
    done = CliRunner().invoke(group, [*TINY, "-o", str(folder), "--json"])
    torch.set_num_threads(threads)
    assert done.exit_code == 0, done.stderr
    return folder, json.loads(done.stdout)


def begun(cwd, ready):
    """Starts the reproduction as a process and kills it as soon as something is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *TINY],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    return said


def changed_at(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def test_killed_twice_it_ends_with_the_same_table(folder, cli, one_thread, undisturbed):
    first, second, third = (folder / "reproductions" / "table1" / name for name in NAMES)
    table = folder / "reproductions" / "table1" / "table1.json"
    begun(folder, lambda: changed_at(second / "state.safetensors") > changed_at(second / "metrics.jsonl") > 0)
    assert not (second / "model.safetensors").exists()  # it was in the middle of training
    assert [row["status"] for row in json.loads(table.read_text())["rows"]] == ["finished", "to do", "to do"]
    before = {p: changed_at(p) for p in first.iterdir()}
    said = begun(folder, (third / "records-0.jsonl").is_file)  # in the middle of a check
    assert "none on cifar_resnet20" not in said
    assert "job 2 of 3: vanilla on cifar_resnet20" in said
    assert "epoch 1/2" not in said[: said.index("job 3 of 3")]  # the run was resumed
    assert not (third / "report.json").exists()
    trained = changed_at(third / "model.safetensors")
    records = (third / "records-0.jsonl").read_text()

    done = CliRunner().invoke(group, TINY)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith("job 3 of 3: learn2perturb on cifar_resnet20\nchecked: ")
    assert (third / "records-0.jsonl").read_text().startswith(records.rpartition("\n")[0])
    assert changed_at(third / "model.safetensors") > trained  # the figures are in its metadata
    assert json.loads(table.read_text()) == undisturbed[1]
    assert "table: reproductions/table1/table1.md" in done.stdout

    assert cli(*TINY, "-q") == done.stdout
    assert {p: changed_at(p) for p in first.iterdir()} == before


def test_the_table(undisturbed):
    folder, result = undisturbed
    assert json.loads((folder / "table1.json").read_text()) == result
    assert result["complete"]
    by_name = {row["run"]: row for row in result["rows"]}
    assert tuple(by_name) == NAMES
    noisy, plain = by_name[NAMES[2]], by_name[NAMES[0]]
    report = json.loads((folder / NAMES[2] / "report.json").read_text())
    results = {result["id"]: result for result in report["results"]}
    assert [f["attack"] for f in noisy["figures"]] == ["clean", "PGD", "FGSM", "EOT-PGD"]
    for figure, id in zip(noisy["figures"], ("clean", "pgd", "fgsm", "eot"), strict=True):
        expected = results[id]
        assert (figure["name"], figure["accuracy"]) == (expected["attack"], expected["accuracy"])
        assert figure["interval"] == expected["interval"]
        assert (figure["n"], figure["draws"]) == (20, 20)
    assert (noisy["verdict"], noisy["worst_case"]) == ("not established", report["headline"]["worst"])
    assert [f["paper"] for f in noisy["figures"]] == [0.8362, 0.5113, 0.5841, None]
    assert [f["paper_spread"] for f in noisy["figures"]] == [0.0002, 0.0008, 0.0007, None]
    assert [f["accuracy"] is None for f in plain["figures"]] == [False, False, False, True]
    assert read_header(folder / NAMES[2] / "model.safetensors").check["n"] == 20

    page = (folder / "table1.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "| learn2perturb |" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["ResNet-V1(20)", "learn2perturb", "2", "20"]
    assert cells[4].startswith(f"{100 * noisy['figures'][0]['accuracy']:.1f} [")
    assert cells[-4] == percent(noisy["worst_case"]["value"], noisy["worst_case"]["interval"])
    assert cells[-3:] == ["83.62±0.02", "51.13±0.08", "58.41±0.07"]
    (over_runs,) = [row for row in result["over_runs"] if row["runs"] == [NAMES[2]]]
    assert [f["mean"] for f in over_runs["figures"]] == [f["accuracy"] for f in noisy["figures"]]
    assert [f["interval"] for f in over_runs["figures"]] == [f["interval"] for f in noisy["figures"]]
    assert all((f["runs"], f["sd"]) == (1, None) for f in over_runs["figures"])  # of one run there is none
    assert "- The paper has 54.84 for Learn2Perturb on ResNet-V1(56) under PGD in table 1, and 54.62" in page
    assert result["remarks"] == list(TABLES["table1"].remarks)


def departures(row):
    return {(d["what"], d["whose"]): (d["here"], d["theirs"]) for d in row["differences"]}


def test_differences_from_the_paper_are_listed(undisturbed):
    folder, result = undisturbed
    found = departures(result["rows"][2])
    paper, release = "the paper", "the authors' release"
    assert found["training images", paper] == ("digits, 200", "CIFAR-10, 50,000")
    assert found["test images", paper] == ("digits, 20", "CIFAR-10, 10,000")
    assert found["epochs", release] == ("2", "350")
    assert found["batch size", release] == ("50", "128")
    assert found["recipe", paper] == ("smoke for all", "each method's own")
    assert found["adversary in the check", paper] == ("PGD-2, ε = 0.1, step 0.05", "PGD-7, ε = 8/255, step 0.01")
    assert found["epochs of warm-up, noise off", paper] == ("1", "20")
    assert found["training runs", paper][0] == "one, with seed 0"
    assert found["EOT-PGD", paper] == ("2 independent draws a step", "no such column")
    assert torch.__version__ in found["versions", paper][0]
    algorithm = "the paper's Algorithm 1 over the release's epochs"  # whose own noise comes earlier, and ends at 1.10
    assert found["θ at the end", algorithm][0].startswith("0.2")
    assert found["θ's learning rate", release] == ("as W's, times 50 for the length of the run", "as W's")
    assert ("weights at the start", paper) not in found  # fresh, as in the paper
    page = (folder / "table1.md").read_text(encoding="utf-8")
    assert "- epochs: 2; the authors' release: 350\n" in page
    assert "- an image is scored by: the mean of 20 fresh draws; the paper: one noisy pass (cifar" in page
    assert ("adversary in training", paper) not in departures(result["rows"][0])  # it had none


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS}")
def test_own_recipes_weights_and_images(cli, folder, npz):
    npz("mine.npz", [*range(10)], [*range(4)])
    asked = ("reproduce", "table2", "--methods", "pni", "--networks", "cifar_resnet20", "--budget", "1", "--seed", "3")
    asked = (*asked, "--data", "mine.npz")
    said = cli(*asked, "--weights", f"cifar_resnet20={WEIGHTS}", "-o", "out", "--json", "-q")
    (row,) = said["rows"]
    assert row["recipe"] == "cifar10_pni"
    assert [f["paper"] for f in row["figures"]] == [0.849, 0.459, 0.545, None]
    assert [f["name"] for f in row["figures"]] == ["clean", "PGD-7", "FGSM", "EOT-PGD-7, 10 draws"]
    found, own = departures(row), "recipe cifar10_pni, after Parametric Noise Injection, CVPR 2019"
    assert found["weights at the start", "the paper"][0].startswith("file:resnet20.safetensors (sha256 ")
    assert found["epochs", own] == ("1", "160")
    assert found["training images", "the paper"][0] == "npz:mine, 10"
    resolved = recipe.load("out/cifar_resnet20-pni/recipe.toml")
    assert (resolved.seed, resolved.method, resolved.train.epochs) == (3, "pni", 1)
    Path("elsewhere").mkdir()
    Path("mine.npz").rename("elsewhere/mine.npz")
    moved = [a if a != "mine.npz" else "elsewhere/mine.npz" for a in asked]
    assert cli(*moved, "--weights", f"cifar_resnet20={WEIGHTS}", "-o", "out", "--json", "-q") == said


def test_a_small_table_3_with_and_without_foolbox(cli, folder, monkeypatch):
    monkeypatch.setattr("perturbify.checks.cases.CarliniWagner", partial(CarliniWagner, steps=3, search_steps=2))
    monkeypatch.setitem(TABLES, "table3", replace(TABLES["table3"], eot_draws=2))
    Path("tiny.toml").write_text(recipe.text("smoke").replace("train_images = 200", "train_images = 20"))
    asked = ("reproduce", "table3", "--budget", "1", "--methods", "learn2perturb", "--images", "4", "-o", "out")
    text = cli(*asked, "--equal-schedule", "tiny.toml", "--wide")
    assert "paper's" in text.splitlines()[2]
    lines = [line.split("  ") for line in text.splitlines() if line.startswith("ResNet-V2(18)")]
    attacks = ["clean", *(f"C&W, κ = {k}" for k in ("0", "0.1", "1", "2", "5")), "EOT-PGD-2, 2 draws", "worst case"]
    assert [next(cell.strip() for cell in line[3:] if cell) for line in lines] == attacks
    assert [line[-1].strip() for line in lines] == ["–", "83.6", "84.0", "76.4", "66.5", "34.8", "53.34", "–"]
    assert "- surviving C&W: the accuracy on fresh noise after the attack" in text
    assert "- weight c in C&W: from 1e-3 to 1e5" in text
    assert "- EOT-PGD: 2 independent draws a step; the authors' release: 80 identical draws a step" in text
    assert "- The paper does not name the network of these figures." in text
    figures = json.loads(Path("out/table3.json").read_text())["rows"][0]["figures"]
    assert all(f["n"] == 4 for f in figures)
    assert all((f["claimed"] is None) == (f["attack"] == "clean") for f in figures)

    monkeypatch.setattr("perturbify.checks.run.missing", lambda attack: "foolbox" if attack.norm == "l2" else None)
    for file in ("report.html", "records-0.jsonl"):
        Path("out/cifar_resnet18-learn2perturb", file).unlink()
    said = cli(*asked, "--equal-schedule", "tiny.toml", "--json")["rows"][0]
    assert [f["accuracy"] is None for f in said["figures"]] == [False, *[True] * 5, False]
    assert "foolbox is not installed" in said["remarks"][0]
    assert "Not run (foolbox is not installed" in Path("out/table3.md").read_text(encoding="utf-8")


def tiny(name="tiny.toml"):
    """A recipe that learns nothing from 40 images, in a moment."""
    text = recipe.text("smoke").replace("train_images = 200", "train_images = 40").replace("= 50", "= 20")
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_transfer_with_two_training_runs_per_network(cli, folder):
    asked = ("reproduce", "transfer", "--budget", "1", "--equal-schedule", tiny(), "--networks", "cifar_resnet20")
    asked = (*asked, "--methods", "learn2perturb", "--images", "10", "--seeds", "3,8", "-o", "out")
    result = cli(*asked, "--json", "-q")
    names = [f"cifar_resnet20-{method}-seed-{seed}" for method in ("vanilla", "learn2perturb") for seed in (3, 8)]
    assert [(row["run"], row["seed"]) for row in result["rows"]] == list(zip(names, (3, 8, 3, 8), strict=True))
    assert [recipe.load(f"out/{name}/recipe.toml").seed for name in names] == [3, 8, 3, 8]
    reports = {name: Report.read(Path("out", name, "report.json")) for name in names}
    for name in names[2:]:
        transferred = reports[name].result("transfer from vanilla")
        assert (transferred.on, transferred.source) == ("other", "vanilla")
    # The surrogate is that of the same seed: its records name the network that images were crafted on.
    digests = {n: json.loads(Path("out", n, "records-0.jsonl").read_text().splitlines()[0])["networks"] for n in names}
    assert [digests[names[i + 2]][1] for i in (0, 1)] == [digests[names[i]][0] for i in (0, 1)]
    assert digests[names[0]] != digests[names[1]]

    vanilla, noisy = result["over_runs"]
    by_attack = {f["attack"]: f for f in noisy["figures"]}
    assert list(by_attack) == ["clean", "PGD", "transfer", "transfer, noise off"]
    for attack, id in (("clean", "clean"), ("PGD", "pgd"), ("transfer", "transfer from vanilla")):
        theirs = [reports[name].result(id) for name in names[2:]]
        means, figure = [r.accuracy for r in theirs], by_attack[attack]
        assert (figure["runs"], figure["n"]) == (2, 10)
        assert (figure["mean"], figure["sd"]) == pytest.approx((mean(means), stdev(means)))
        pooled = Figure.of(np.hstack([r.right for r in theirs]))
        assert figure["interval"] == pytest.approx(list(pooled.interval))
    assert {f["attack"]: f["runs"] for f in vanilla["figures"]} == {
        **{"clean": 2, "PGD": 2},
        **{"transfer": 0, "transfer, noise off": 0},  # it would be PGD on itself
    }
    page = Path("out/transfer.md").read_text(encoding="utf-8")
    assert "mean ± standard deviation over training runs, and 95% intervals over images" in page
    line = next(line for line in page.splitlines() if line.startswith("| ResNet-V1(20) | learn2perturb"))
    clean = by_attack["clean"]
    shown = f"{percent(clean['mean'])} ± {percent(clean['sd'])} {percent(0, clean['interval']).partition(' ')[2]}"
    assert line.startswith(f"| ResNet-V1(20) | learn2perturb | 1 | 2 of 2 | 10 | {shown} |")
    before = {p: changed_at(p) for p in Path("out").rglob("*.safetensors")}
    assert cli(*asked, "--json", "-q") == result
    assert {p: changed_at(p) for p in Path("out").rglob("*.safetensors")} == before


def test_without_the_surrogate_network_there_is_no_transfer(folder, monkeypatch):
    def fails(model, chosen, *rest, **kwargs):
        if chosen.method == "vanilla":
            raise TrainingError("It diverged.", "")
        return finetune(model, chosen, *rest, **kwargs)

    finetune = launch.finetune
    monkeypatch.setattr(launch, "finetune", fails)
    asked = ["reproduce", "transfer", "--budget", "1", "--equal-schedule", tiny(), "--networks", "cifar_resnet20"]
    done = CliRunner().invoke(group, [*asked, "--methods", "learn2perturb", "--images", "4", "-o", "out"])
    assert done.exit_code == 1
    assert "- cifar_resnet20-vanilla: It diverged." in done.stdout
    assert "There is no network to craft images on: cifar_resnet20-vanilla has not been trained." in done.stdout


def test_a_curve_and_its_picture(cli, folder, monkeypatch):
    figures = {("cifar_resnet20", method): {} for method in ("vanilla", "learn2perturb")}
    monkeypatch.setitem(TABLES, "fig3", replace(TABLES["fig3"], figures=figures))
    asked = ("reproduce", "fig3", "--budget", "1", "--equal-schedule", tiny(), "--images", "4", "-o", "out", "-q")
    text = cli(*asked, "--wide")
    head = next(line for line in text.splitlines() if line.startswith("network"))
    assert all(f"PGD-2, ε = {e}  " in head for e in ("0.025", "0.05", "0.075", "0.1", "0.125", "0.15", "0.2"))
    assert "The paper's figure has no numbers" in text
    report = Report.read(Path("out/cifar_resnet20-learn2perturb/report.json"))
    rows = json.loads(Path("out/fig3.json").read_text())["rows"]
    curve = {f["attack"]: f["accuracy"] for f in rows[1]["figures"]}
    assert (curve["PGD, ε = 0.1"], curve["PGD, ε = 0.2"]) == tuple(
        report.result(id).accuracy for id in ("pgd", "pgd at 0.2")
    )
    picture = Path("out/fig3.png")
    assert is_ours(picture)
    picture.write_bytes(b"mine")
    cli(*asked)
    assert picture.read_bytes() == b"mine"
    drawn = []
    monkeypatch.setattr("perturbify.cli.reports.keep_figure", lambda figure, *_, **__: drawn.append(figure))
    cli(*asked, "--methods", "vanilla", "--seeds", "2", "-o", "several")
    drawn[-1].canvas.draw()
    title = drawn[-1]._suptitle
    assert title.get_text().endswith("bars: standard deviation over training runs; hollow: EOT-PGD")
    assert title.get_window_extent().x1 <= drawn[-1].bbox.x1, "cut off"


def test_a_small_few_pixel_table(cli, folder, monkeypatch):
    monkeypatch.setattr("perturbify.reproduction.job.POPULATION", 4)
    monkeypatch.setattr("perturbify.reproduction.job.GENERATIONS", 1)
    asked = ("reproduce", "fewpixel", "--budget", "paper", "--equal-schedule", tiny(), "--networks", "cifar_resnet20")
    text = cli(*asked, "--methods", "vanilla", "--images", "4", "-q", "--wide")
    lines = [line.split("  ") for line in text.splitlines() if line.startswith("ResNet-V1(20)")]
    attacks = [next(cell.strip() for cell in line[3:] if cell.strip()) for line in lines]
    assert attacks == ["clean", "1 pixel", "2 pixels", "3 pixels", "worst case"]
    assert "- search for pixels: differential evolution, 4 candidates, 1 generation; the paper: not stated" in text


def test_a_folder_that_an_earlier_version_began(cli, folder, undisturbed):
    shutil.copytree(undisturbed[0], "out")
    notes = json.loads(Path("out/reproduction.json").read_text())
    notes["seed"] = notes.pop("seeds")[0]
    old = {name: text.replace("gamma", "# gamma") for name, text in notes["recipes"].items()}
    Path("out/reproduction.json").write_text(json.dumps(notes | {"recipes": old}))
    before = {p: changed_at(p) for p in Path("out").rglob("*.safetensors")}
    assert cli(*TINY, "-o", "out", "--json", "-q") == undisturbed[1]
    assert {p: changed_at(p) for p in Path("out").rglob("*.safetensors")} == before
    assert json.loads(Path("out/reproduction.json").read_text())["seeds"] == [0]


def test_each_run_reports_its_own_recipe(cli, folder, undisturbed):
    shutil.copytree(undisturbed[0], "out")
    path = Path("out", NAMES[1], "recipe.toml")
    path.write_text(path.read_text().replace("batch_size = 50", "batch_size = 25", 1))
    rows = cli(*TINY, "-o", "out", "--json", "-q")["rows"]
    said = [departures(row)["batch size", "the authors' release"][0] for row in rows]
    assert said == ["50", "25", "50"]


def test_earlier_versions_did_not_scale_thetas_learning_rate(cli, folder, undisturbed):
    """Its recipe does not speak of that, and what is today's default was not done."""
    shutil.copytree(undisturbed[0], "out")
    path = Path("out", NAMES[2], "recipe.toml")
    path.write_text(path.read_text().replace('theta_schedule = "scaled"\n', "", 1))
    before, now = departures(undisturbed[1]["rows"][2]), departures(cli(*TINY, "-o", "out", "--json", "-q")["rows"][2])
    rate = ("θ's learning rate", "the authors' release")
    assert before.pop(rate)[0].startswith("as W's, times 50") and before == now


def test_a_failed_row_states_the_reason(folder):
    nowhere = recipe.text("smoke") + '\n[perturb]\ninclude = ["nowhere"]\n'
    Path("nowhere.toml").write_text(nowhere, encoding="utf-8")
    asked = [*TINY, "--equal-schedule", "nowhere.toml", "--methods", "learn2perturb,none", "-o", "out"]
    done = CliRunner().invoke(group, asked)
    assert done.exit_code == 1
    assert "- cifar_resnet20-learn2perturb: CifarResNet has nothing to put noise behind" in done.stdout
    rows = json.loads(Path("out/table1.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["finished", "not run"]
    assert "nothing to put noise behind" in rows[1]["why"]


def test_a_failed_criterion_is_status_3(folder, monkeypatch):
    monkeypatch.setattr("perturbify.checks.report.Report.verdict", "failed")
    monkeypatch.setattr("perturbify.checks.report.Report.failures", ["one step never beats many: it did"])
    done = CliRunner().invoke(group, [*ONE, "-o", "out"])
    assert done.exit_code == 3
    assert "- cifar_resnet20-none: one step never beats many: it did" in done.stdout


def test_another_command_for_the_same_folder(refused, folder, undisturbed):
    shutil.copytree(undisturbed[0], "out")
    at = ("-o", "out")
    assert "holds a reproduction with another budget (2 there, 1 here)." in refused(*TINY, "--budget", "1", *at)
    assert "other seeds (0 there, 7 here)" in refused(*TINY, "--seed", "7", *at)
    assert "other images (20 there, 10 here)" in refused(*TINY, "--images", "10", *at)
    assert "other methods" in refused(*TINY, "--methods", "none", *at)
    assert "another budget (2 there, paper here)" in refused(*TINY, "--budget", "paper", *at)
    notes = json.loads(Path("out/reproduction.json").read_text())
    notes["recipes"][NAMES[0]] += "\n"
    Path("out/reproduction.json").write_text(json.dumps(notes))
    assert "with other recipes under the same names." in refused(*TINY, *at)
    Path("out/reproduction.json").write_text("[")
    assert "reproduction.json is damaged" in refused(*TINY, *at)


def test_force_replaces_the_reproduction_and_nothing_else(cli, folder, undisturbed):
    shutil.copytree(undisturbed[0], "out")
    Path("out/notes.txt").write_text("mine")
    said = cli(*ONE, "-o", "out", "--force", "--json")
    assert [row["epochs"] for row in said["rows"]] == [1]
    assert {p.name for p in Path("out").iterdir()} == {
        *("reproduction.json", "table1.json", "table1.md", NAMES[0], "notes.txt")
    }
    assert recipe.load(f"out/{NAMES[0]}/recipe.toml").train.epochs == 1


def test_what_is_refused(refused, folder):
    Path("full").mkdir()
    Path("full/letter").write_text("dear")
    Path("file").write_text("")
    assert "is not empty and holds no reproduction" in refused(*ONE, "-o", "full")
    assert "is a file" in refused(*ONE, "-o", "file", status=2)
    assert "There is no dataset, file or folder 'nowhere'" in refused(*ONE, "--data", "nowhere")
    assert "There is no weights file 'none.pth'" in refused(*ONE, "--weights", "cifar_resnet20=none.pth")
    assert "There is no device 'cuda:99'" in refused(*ONE, "--device", "cuda:99")
    assert "There is no recipe 'smok'" in refused(*ONE, "--equal-schedule", "smok", status=2)
    assert "There is no method 'pni' in table1" in refused(*ONE, "--methods", "pni", status=2)
    assert "0 epochs train nothing: use 1 or more" in refused(*TABLE1, "--budget", "0", status=2)
    assert "neither 'paper' nor a number" in refused(*TABLE1, "--budget", "-1", status=2)
    assert "number of runs, 0, is not between 1 and 1,000" in refused(*ONE, "--seeds", "0", status=2)
    assert "the seed 4 occurs twice" in refused(*ONE, "--seeds", "4,0,4", status=2)
    assert "'a' is not a whole number: use a number of runs, such as 3, or seeds" in refused(
        *ONE, "--seeds", "a,b", status=2
    )
    assert "number of runs, 1001, is not between 1 and 1,000" in refused(*ONE, "--seeds", "1001", status=2)
    assert "not both" in refused(*ONE, "--seeds", "3", "--seed", "1", status=2)
    assert "table4 has no row with rse on cifar_resnet18" in refused(
        *("reproduce", "table4", "--budget", "1", "--networks", "cifar_resnet18", "--methods", "rse"), status=2
    )
    assert "not of the form NETWORK=FILE" in refused(*ONE, "--weights", "x.pth", status=2)
    assert "Missing option '--budget'" in refused("reproduce", "table1", status=2)
    assert "'table5' is not one of 'table1', 'table2'," in refused("reproduce", "table5", "--budget", "1", status=2)


def test_a_dry_run_measures_time_and_writes_nothing(cli, folder, monkeypatch):
    line = cli(*ONE, "--dry-run").splitlines()[2]
    assert line.split()[:5] == ["cifar_resnet20", "none", "0", "smoke", "1"]
    trained, finetune = [], launch.finetune
    monkeypatch.setattr(launch, "finetune", lambda *a, **k: trained.append(finetune(*a, **k)) or trained[0])
    said = cli(*TABLE1, "--budget", "2", "--methods", "vanilla", "--dry-run", "--json", "-q")
    training, check = said["jobs"][0]["seconds"]
    rate = trained[0].metrics[-1]["images_per_second"]
    assert training == pytest.approx(2 * 200 / rate)  # two epochs of the recipe's 200 images
    assert check > 0
    assert said["seconds"] == pytest.approx(training + check)
    twice = cli(*TABLE1, "--budget", "2", "--methods", "vanilla", "--dry-run", "--json", "-q", "--seeds", "3,5")
    assert [job["seed"] for job in twice["jobs"]] == [3, 5]
    assert len(trained) == 2  # one row is timed once, whatever its seeds
    assert not list(folder.glob("reproductions*"))
