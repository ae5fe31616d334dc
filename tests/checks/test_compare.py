"""Comparisons of classifiers whose figures are known beforehand, and how they are told."""

import csv
import io
import json
import re
import shutil
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from networks.greys import FAR, PLAN, Brightness, Step, brightness, named, noisy
from networks.untouched import untouched
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import perturbify
from perturbify import check, zoo
from perturbify.checks.compare import compare
from perturbify.checks.groups import Trained
from perturbify.checks.latency import latencies
from perturbify.checks.render.comparison import to_markdown, to_text
from perturbify.checks.render.comparison_csv import to_csv
from perturbify.checks.render.comparison_latex import to_latex
from perturbify.checks.runs import Ahead, Spread, welch
from perturbify.checks.statistics import difference_interval
from perturbify.errors import CheckError, DataError, InputSizeError
from perturbify.escape import terminal

PLAN = replace(
    PLAN, attacks=("fgsm", "pgd", "margin", "eot", "sweep"), sweep=(0.25, 2.0), queries=(1,), draws=4, gradients=4
)
X = torch.rand(2, 3, 6, 6)


def biased(towards_bright):
    """Brightness that leans to one side."""
    net = Brightness()
    net.conv.bias.data += torch.tensor([-towards_bright, towards_bright])
    return net


def two():
    return {"plain": Brightness(), "noisy": noisy(theta=0.01)}


def test_figures_of_known_networks():
    plain, drowned = compare({"plain": Brightness(), "drowned": noisy(theta=1e5)}, brightness(150, 50), PLAN).entries
    assert {id: r.accuracy for id, r in plain.figures.items()} == {
        "clean": 1.0,
        "fgsm": 0.75,
        "pgd": 0.75,
        "margin": 0.75,
    }
    figures = {id: r.accuracy for id, r in drowned.figures.items()}
    assert figures.pop("twin-pgd") == 0.75 and "twin-clean" not in figures, "twin was not asked for"
    assert figures.keys() == {"clean", "fgsm", "pgd", "margin", "eot"}
    assert all(abs(accuracy - 0.5) < 4 * (0.25 / 800) ** 0.5 for accuracy in figures.values())
    assert drowned.figures["eot"].attack == "EOT-PGD-4, 3 draws"
    assert (plain.report.n, plain.method, drowned.method) == (200, None, "learn2perturb")
    assert (plain.weights, plain.theta, drowned.weights, drowned.theta) == (8, 0, 8, 2 * 6 * 6)


def test_a_requested_twin_includes_its_clean_accuracy():
    (entry,) = compare({"noisy": noisy()}, brightness(4, 4), replace(PLAN, attacks=("fgsm", "pgd", "twin"))).entries
    assert entry.figures["twin-clean"].accuracy == 1.0 and "margin" not in entry.figures


def test_the_papers_network_has_its_parameters():
    net = zoo.create("cifar_resnet20")
    example, normalize = torch.rand(2, 3, 32, 32), perturbify.Normalize((0.5,) * 3, (0.2,) * 3)
    model = perturbify.wrap(net, example_input=example, normalize=normalize)
    plan = replace(PLAN, attacks=("fgsm", "pgd"), steps=1, images=1, draws=1)
    images = named(brightness(1, 1), tuple("0123456789"))
    images = replace(images, test=type(images.test)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([0])))
    (entry,) = compare({"resnet20": model}, images, plan).entries
    assert (entry.weights, entry.theta) == (269_722, sum(p.theta.numel() for _, p in perturbify.perturbations(model)))


def test_differences_are_paired_by_image():
    split = brightness(far=40, near=20)
    networks = {"fair": Brightness(), "bright": biased(1000.0), "again": Brightness()}
    fair, bright, again = compare(networks, split, PLAN).groups
    assert (fair.worst.over_runs.mean, bright.worst.over_runs.mean) == (40 / 60, 0.5)
    ordered = split.interleaved()
    levels = ordered.images[:, 0, 0, 0].double()
    far = ((levels - 127.5).abs() > FAR)[:, None].numpy()
    one_sided = (ordered.labels == 1)[:, None].numpy()
    assert fair.ahead is None
    assert bright.ahead.value == pytest.approx(-1 / 6)
    assert bright.ahead.over_images == pytest.approx(difference_interval(one_sided, far))
    assert bright.ahead.over_runs is None, "one run each"
    assert (again.ahead.value, again.ahead.verdict) == (0.0, "undecided")
    backwards = compare(dict(reversed(list(networks.items()))), split, PLAN).groups
    assert [e.ahead and e.ahead.value for e in backwards] == [None, pytest.approx(-1 / 6), 0.0]


def test_curves_run_from_clean_to_the_largest_epsilon():
    _, entry = compare(two(), brightness(30, 30), PLAN).entries
    for line, attack in (("FGSM", "FGSM"), ("PGD-4", "PGD-4")):
        curve = entry.curve(line)
        assert [255 * epsilon for epsilon, _ in curve] == pytest.approx([0, 2, 8, 16])
        assert [r.attack for _, r in curve] == ["clean", f"{attack}, ε = 2/255", attack, f"{attack}, ε = 16/255"]
        assert [r.accuracy for _, r in curve] == [1.0, 1.0, 0.5, 0.5]


def test_each_network_is_checked_as_if_alone():
    split = brightness(20, 60)
    networks = {"first": noisy(theta=12.0), "second": noisy(theta=6.0)}
    found = compare(networks, split, PLAN)
    for entry in found.entries:
        alone = check(networks[entry.name], split, PLAN)
        assert [(r.id, r.answers) for r in entry.report.results] == [(r.id, r.answers) for r in alone.results]
        assert entry.report.criteria == alone.criteria
    first, second = (e.report.headline.accuracy for e in found.entries)
    assert first != second


def test_networks_and_random_numbers_are_untouched():
    networks = two()
    networks["noisy"].train()
    networks["noisy"].conv.perturb.enabled = False
    networks["loud"] = noisy(theta=1.0)
    with untouched(networks["noisy"]), untouched(networks["plain"]), untouched(networks["loud"]):
        compare(networks, brightness(4, 4), PLAN)


def test_finished_work_is_not_repeated(tmp_path):
    split, done = brightness(20, 20), []
    first = compare(two(), split, PLAN, folder=tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jsonl")} == {
        "plain/records-0.jsonl",
        "noisy/records-0.jsonl",
    }
    more = {**two(), "another": noisy(theta=3.0)}
    again = compare(more, split, PLAN, folder=tmp_path, on_progress=lambda name, p: done.append(name))
    assert set(done) == {"another"}
    assert timeless(again)["networks"][:2] == timeless(first)["networks"]
    with pytest.raises(CheckError, match=r"^plain: .*differs in plan"):
        compare(two(), split, replace(PLAN, seed=1), folder=tmp_path)


def test_callbacks_report_each_network():
    started, done = {}, []
    compare(
        two(),
        brightness(20, 20),
        PLAN,
        on_start=lambda name, estimate: started.update({name: len(estimate.costs)}),
        on_progress=lambda name, progress: done.append((name, progress.case)),
    )
    assert started.keys() == {"plain", "noisy"}
    assert [name for name, _ in done] == ["plain"] * started["plain"] + ["noisy"] * started["noisy"]


def timeless(comparison):
    values = comparison.to_dict()
    return values | {"networks": [network | {"latency": None} for network in values["networks"]]}


# Time


class Counting(nn.Module):
    """Notes when it runs, in which mode, and takes its time."""

    def __init__(self, name, calls, seconds=0.0):
        super().__init__()
        self.name, self.calls, self.seconds = name, calls, seconds

    def forward(self, x):
        time.sleep(self.seconds)
        self.calls.append((self.name, len(x), self.training, torch.is_grad_enabled()))
        return x.mean((2, 3))


def test_networks_take_turns():
    calls = []
    networks = {"a": Counting("a", calls, 0.064), "b": Counting("b", calls)}
    found = latencies(networks, torch.rand(64, 3, 6, 6), rounds=3)
    assert calls == [("a", 64, False, False), ("b", 64, False, False)] * 4  # the first round is not counted
    assert networks["a"].training
    assert [len(f.rounds) for f in found.values()] == [3, 3]
    assert 1 <= found["a"].milliseconds < 30 and found["b"].milliseconds < found["a"].milliseconds / 2
    assert found["a"].milliseconds == np.median(found["a"].rounds)


def test_an_averaging_method_is_timed_with_its_draws():
    model = perturbify.wrap(Brightness(), method="rse", example_input=X)
    passes = []
    next(iter(perturbify.perturbations(model)))[1].register_forward_hook(lambda m, *_: passes.append(m.enabled))
    with perturbify.noise(model, False):
        found = latencies({"rse": model, "plain": Brightness()}, X, rounds=2)
    assert passes == [True] * 50 * 3
    assert (found["rse"].draws, found["plain"].draws, found["rse"].images) == (50, 1, 2)


def test_an_averaging_method_is_scored_with_fewer_repeats():
    model = perturbify.wrap(Brightness(), method="rse", example_input=X)
    plan = replace(PLAN, attacks=("fgsm", "pgd"), draws=60)
    found = compare({"rse": model, "noisy": noisy()}, brightness(4, 4), plan)
    assert [e.figures["pgd"].draws for e in found.entries] == [4, 60]
    assert "rse averages 50 draws for an answer; each image has 4 answers." in " ".join(to_text(found).split())


# What is refused


class Number(Brightness):
    def forward(self, x):
        return super().forward(x)[:, :1]


@pytest.mark.parametrize(
    ("culprit", "error", "said"),
    [
        (nn.Sequential(Brightness(), nn.Linear(2, 5)), CheckError, "culprit: .*has 5 classes, but the data have 2"),
        (Number(), CheckError, "culprit: Number gives a single number for each image"),
        (Brightness().conv, CheckError, "culprit: Conv2d gives a map of 2×6×6 for each image"),
    ],
)
def test_the_culprit_is_named_before_any_work(culprit, error, said):
    started = []
    networks = {"plain": Brightness(), "culprit": culprit}
    with pytest.raises(error, match=f"^{said}"):
        compare(networks, named(brightness(4, 4)), PLAN, on_start=lambda name, _: started.append(name))
    assert started == []


def test_a_network_without_gradients_fails_its_comparison():
    found = compare({"plain": Brightness(), "hard": nn.Sequential(Brightness(), Step())}, brightness(4, 4), PLAN)
    plain, hard = found.entries
    assert "pgd" not in hard.figures and "pgd" in plain.figures
    assert [g.figure("pgd") is None for g in found.groups] == [False, True]
    assert found.status == 3 and not plain.report.failures and hard.report.dead_gradients == 1.0
    assert [len(hard.curve(line)) for line in found.lines] == [1, 1]
    for said in (to_text(found), to_markdown(found)):
        assert "hard FAILED the gradient is alive" in said
    assert compare({"plain": Brightness()}, brightness(4, 4), PLAN).status == 0


def test_images_of_another_size():
    split = brightness(4, 4)
    small = type(split)(split.images[..., :5, :5].clone(), split.labels)
    with pytest.raises(InputSizeError, match=r"^noisy: .*3×6×6.*this one is 2×5×5") as caught:
        compare(two(), small, PLAN)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b"])
def test_a_name_unfit_for_a_folder_is_refused(name, tmp_path):
    with pytest.raises(CheckError, match=re.escape(f"{name!r} cannot be a network's name")):
        compare({name: Brightness()}, brightness(4, 4), PLAN, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_comparing_no_networks():
    with pytest.raises(ValueError, match="at least one network"):
        compare({}, brightness(4, 4), PLAN)
    with pytest.raises(ValueError, match="the curve over ε needs fgsm and pgd, but pgd was not requested"):
        compare(two(), brightness(4, 4), replace(PLAN, attacks=("fgsm", "sweep")))
    with pytest.raises(DataError, match="no test images"):
        compare(two(), brightness(0, 0), PLAN)


def test_one_process():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(CheckError, match="runs in one process, but this is one of 2"):
            compare(two(), brightness(4, 4), PLAN)
    finally:
        dist.destroy_process_group()


# How it is told

HOSTILE = "<b>|`x`\x1b[31m\n$y$"


def test_a_hostile_name_is_text():
    found = compare({HOSTILE: Brightness(), "noisy": noisy()}, brightness(4, 4), PLAN)
    text, markdown, latex, written = to_text(found), to_markdown(found), to_latex(found), to_csv(found)
    assert not [c for c in text + markdown + latex + written if not c.isprintable() and c not in "\r\n"]
    assert r"\textless{}b\textgreater{}\textbar{}" in latex and r"\$y\$" in latex
    named = {row["network"] for row in csv.DictReader(io.StringIO(written, newline=""))}
    assert named == {terminal(HOSTILE), "noisy"}
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "<b>" not in markdown and json.loads(found.to_json())["networks"][0]["name"] == HOSTILE


def test_text_markdown_and_json_agree():
    found = compare({"first": noisy(theta=12.0), "second": noisy(theta=6.0)}, brightness(20, 60), PLAN)
    text, markdown = to_text(found), to_markdown(found).replace("\\", "")
    written = json.loads(found.to_json())
    assert written == found.to_dict() and written["schema"] == 3
    for network in written["networks"]:
        figures = [f for f in network["figures"].values() if f]
        assert len(figures) == 6
        for said in (text, markdown):
            lines = " ".join(line for line in said.splitlines() if line.lstrip("| ").startswith(network["name"]))
            worst = network["worst_case"]
            for value, (low, high) in [*((f["accuracy"], f["interval"]) for f in figures), tuple(worst.values())]:
                assert f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in lines
            assert f"{network['latency']['milliseconds']:.3g}" in lines
    ahead = written["groups"][1]["ahead"]
    assert set(ahead) == {"value", "over_images", "over_runs", "verdict"} and written["groups"][0]["ahead"] is None
    assert f"{100 * ahead['value']:.1f} [{100 * ahead['over_images'][0]:.1f}" in text and "ahead of first" in text
    assert "±" not in text + markdown and "runs" not in text + markdown, "one run each"
    assert "80 test images of own images, l∞ ε = 8/255" in text and "4 fresh draws" in text
    threads = torch.get_num_threads()
    assert f"on this machine with its load at the time ({found.machine['device']}, {threads} thread" in " ".join(
        text.split()
    )


def test_the_keys_of_the_json():
    values = compare(two(), brightness(4, 4), PLAN).to_dict()
    assert set(values) == {
        *("schema", "dataset", "classes", "n", "epsilon", "step_size", "steps", "eot_draws", "draws", "batch_size"),
        *("seed", "machine", "groups", "networks"),
    }
    for group in values["groups"]:
        assert set(group) == {"name", "networks", "seeds", "method", "figures", "worst_case", "ahead"}
        assert set(group["worst_case"]) == {"mean", "sd", "low", "high", "runs", "over_images"}
        assert group["worst_case"]["sd"] is None and group["seeds"] == [None]
    for network in values["networks"]:
        assert set(network) == {
            *("name", "group", "seed", "architecture", "method", "deterministic", "weights", "theta", "figures"),
            *("worst_case", "curves", "latency", "failures"),
        }
        assert set(network["figures"]["pgd"]) == {"attack", "noise", "draws", "accuracy", "interval"}
        assert set(network["latency"]) == {"milliseconds", "rounds", "images", "draws"}
        assert set(network["curves"]) == {"FGSM", "PGD-4"}


# Runs of several seeds


@pytest.fixture(scope="module")
def grouped():
    """Two runs of one defence beside one plain network."""
    networks = {"plain": Brightness(), "n-0": noisy(theta=6.0), "n-1": noisy(theta=12.0)}
    trained = {"n-0": Trained("n", 0), "n-1": Trained("n", 1)}
    return compare(networks, brightness(20, 60), PLAN, trained=trained)


def test_runs_are_pooled_and_their_spread_reported(grouped):
    plain, noise = grouped.groups
    assert ([g.name for g in grouped.groups], grouped.several) == (["plain", "n"], True)
    assert [(e.name, e.seed) for e in grouped.entries] == [("plain", None), ("n-0", 0), ("n-1", 1)]
    values = [e.figures["pgd"].accuracy for e in noise.entries]
    assert noise.figure("pgd").over_runs == Spread.of(values) and values[0] != values[1]
    assert plain.figure("pgd").over_runs.sd is None and plain.figure("eot") is None
    rights = [e.report.worst for e in noise.entries]
    assert noise.ahead == Ahead.of(rights, [plain.entries[0].report.worst], shared=False)
    assert noise.ahead.over_runs is None, "the first group is one run"
    assert [e for e, _ in noise.curve("PGD-4")] == [e for e, _ in noise.entries[0].curve("PGD-4")]
    assert noise.curve("PGD-4")[0][1] == noise.figure("clean")


def test_every_format_reports_the_runs(grouped):
    noise = grouped.groups[1].worst
    mean, sd = (f"{100 * v:.1f}" for v in (noise.over_runs.mean, noise.over_runs.sd))
    low, high = (f"{100 * v:.1f}" for v in noise.over_images)
    alone = f"{100 * grouped.groups[0].worst.over_runs.mean:.1f}"
    text, markdown = to_text(grouped), to_markdown(grouped).replace("\\", "")
    for said in (text, markdown):
        assert f"{mean} ± {sd} [{low}, {high}]" in said
        assert f"{alone} ± – [" in said, "never 0"
        assert "· seed 0" in said and "· seed 1" in said
        assert "(seeds 0, 1 of n)" in " ".join(said.split()) and "ahead, over runs" not in said
    values = grouped.to_dict()
    assert [(g["name"], g["networks"], g["seeds"]) for g in values["groups"]] == [
        ("plain", ["plain"], [None]),
        ("n", ["n-0", "n-1"], [0, 1]),
    ]
    assert values["groups"][0]["worst_case"]["sd"] is None
    assert values["groups"][1]["worst_case"]["mean"] == noise.over_runs.mean
    assert [(n["group"], n["seed"]) for n in values["networks"]] == [("plain", None), ("n", 0), ("n", 1)]


def test_comparing_two_groups_gives_an_interval_over_runs(grouped):
    trained = {name: Trained(name[0], int(name[1])) for name in ("a0", "a1", "b0", "b1")}
    networks = dict(zip(trained, (noisy(theta=t) for t in (6.0, 12.0, 20.0, 30.0)), strict=True))
    found = compare(networks, brightness(20, 60), replace(PLAN, attacks=("fgsm",)), trained=trained)
    ahead = found.groups[1].ahead
    means = [[e.report.headline.accuracy for e in g.entries] for g in found.groups]
    assert ahead.over_runs == pytest.approx(welch(means[1], means[0]))
    assert found.lines == ("FGSM",) and "(seeds 0, 1)" in " ".join(to_text(found).split())
    assert "ahead, over runs" in to_text(found) and "Welch's 95\\% interval" in to_latex(found)
    assert "PGD" not in found.to_json() + to_text(found) + to_latex(found)


def test_a_group_has_distinct_seeds():
    with pytest.raises(ValueError, match="noisy and plain are not runs of different seeds"):
        compare(two(), brightness(4, 4), PLAN, trained={"plain": Trained("a", 0), "noisy": Trained("a", 0)})
    with pytest.raises(ValueError, match="noisy and plain are not runs of different seeds"):
        compare(two(), brightness(4, 4), PLAN, trained={"plain": Trained("noisy", 0)})


def test_column_heads_do_not_depend_on_network_order():
    networks = two()
    backwards = compare(dict(reversed(list(networks.items()))), brightness(4, 4), PLAN)
    assert list(compare(networks, brightness(4, 4), PLAN).heads.values()) == [
        *("clean", "FGSM", "PGD-4", "margin", "EOT-PGD-4", "PGD-4, noise off")
    ]
    assert set(backwards.heads) == {"clean", "fgsm", "pgd", "margin", "eot", "twin-pgd"}
    assert list(backwards.heads)[-1] == "twin-pgd"


def cells(line):
    """What stands in the cells of a line of a LaTeX table."""
    assert line.endswith(r"\\")
    return [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]


def test_the_latex_table_states_what_it_shows(grouped):
    lines = [line.strip() for line in to_latex(grouped).splitlines()]
    assert [line for line in lines if line.startswith(("\\begin", "\\end", "\\top", "\\mid", "\\bottom"))] == [
        r"\begin{table}",
        rf"\begin{{tabular}}{{l{'r' * 8}}}",
        *(r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}"),
    ]
    rows = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    head = cells(lines[lines.index(r"\toprule") + 1])
    assert head == [
        *("network", "clean", "FGSM", "PGD-4", "margin", "EOT-PGD-4", "PGD-4, noise off", "worst case"),
        "ahead of plain",
    ]
    assert len(rows) == 4 and {len(cells(row)) for row in rows} == {9}
    pgd = grouped.groups[1].figure("pgd")
    assert cells(rows[2])[3] == rf"${100 * pgd.over_runs.mean:.1f}$ $\pm$ ${100 * pgd.over_runs.sd:.1f}$"
    assert cells(rows[3])[3] == rf"{{\scriptsize $[{100 * pgd.over_images[0]:.1f}, {100 * pgd.over_images[1]:.1f}]$}}"
    assert cells(rows[0])[1] == r"$100.0$ $\pm$ --"
    (caption,) = [line for line in lines if line.startswith(r"\caption{")]
    for said in (
        "n = 80 test images of own images",
        r"$\varepsilon$ = 8/255",
        "PGD by 4 steps of",
        "EOT over 3 draws",
        "4 fresh draws",
    ):
        assert said in caption
    assert r"Mean $\pm$ standard deviation over training runs (seeds 0, 1 of n)" in caption


def test_latex_compiles(grouped, tmp_path):
    tex = next(filter(None, map(shutil.which, ("pdflatex", "tectonic"))), None)
    if tex is None:
        pytest.skip("no TeX here")
    found = compare({HOSTILE: Brightness(), "noisy": noisy()}, brightness(4, 4), PLAN)
    body = to_latex(grouped) + to_latex(found)
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body + r"\end{document}"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    mode = ["-interaction=nonstopmode", "-halt-on-error"] if tex.endswith("pdflatex") else []
    subprocess.run([tex, *mode, "table.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_csv_has_one_row_per_network_attack_epsilon(grouped):
    written = to_csv(grouped)
    assert written.count("\r\n") == written.count("\n") == len(written.splitlines())
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    found = {(row["network"], row["id"]): row for row in rows}
    assert len(found) == len(rows) == sum(len(e.report.results) + 1 for e in grouped.entries)
    for entry in grouped.entries:
        for result in entry.report.results:
            row = found[entry.name, result.id]
            assert float(row["accuracy"]) == pytest.approx(result.accuracy, abs=1e-6)
            assert (int(row["n"]), int(row["draws"]), row["attack"]) == (result.n, result.draws, result.attack)
            assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        worst = found[entry.name, "worst"]
        assert float(worst["accuracy"]) == pytest.approx(entry.report.headline.accuracy, abs=1e-6)
    assert (found["n-1", "pgd"]["group"], found["n-1", "pgd"]["seed"], found["plain", "pgd"]["seed"]) == ("n", "1", "")
    epsilons = {row["epsilon"] for row in rows if row["attack"].startswith(("FGSM", "clean"))}
    assert epsilons == {"0", *(f"{level / 255:.6g}" for level in (2, 8, 16))}


def test_networks_without_noise_get_no_noise_columns():
    found = compare({"plain": Brightness()}, brightness(4, 4), PLAN)
    for said in (to_text(found), to_markdown(found)):
        assert "noise" not in said.replace("no noise", "") and "ahead" not in said and "fresh draws" not in said
        assert "EOT-PGD-4" not in said


def test_a_failed_criterion_is_reported():
    dead = noisy(theta=0.01)
    dead.conv.perturb.theta.data.zero_()
    found = compare({"dead": dead, "plain": Brightness()}, brightness(4, 4), PLAN)
    assert found.status == 3 and found.entries[0].report.failures and not found.entries[1].report.failures
    assert "dead FAILED" in to_text(found) and "no fresh noise at conv" in to_text(found)
    assert found.to_dict()["networks"][0]["failures"] == found.entries[0].report.failures
