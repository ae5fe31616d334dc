"""Comparisons of classifiers whose figures are known beforehand, and how they are told."""

import json
import re
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
from perturbify.checks.latency import latencies
from perturbify.checks.render.comparison import to_markdown, to_text
from perturbify.checks.statistics import difference_interval
from perturbify.errors import CheckError, InputSizeError

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


def test_a_twin_that_is_asked_for_has_its_clean_figure():
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


def test_the_difference_is_of_the_same_images_in_pairs():
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


def test_curves_rise_in_epsilon_from_the_clean_images():
    _, entry = compare(two(), brightness(30, 30), PLAN).entries
    for line, attack in (("FGSM", "FGSM"), ("PGD-4", "PGD-4")):
        curve = entry.curve(line)
        assert [255 * epsilon for epsilon, _ in curve] == pytest.approx([0, 2, 8, 16])
        assert [r.attack for _, r in curve] == ["clean", f"{attack}, ε = 2/255", attack, f"{attack}, ε = 16/255"]
        assert [r.accuracy for _, r in curve] == [1.0, 1.0, 0.5, 0.5]


def test_each_network_is_checked_as_by_itself():
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


def test_what_is_done_is_not_done_again(tmp_path):
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
    with pytest.raises(CheckError, match=r"^plain: .*another plan"):
        compare(two(), split, replace(PLAN, seed=1), folder=tmp_path)


def test_who_is_told_what():
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


def test_a_method_that_averages_is_timed_with_its_draws():
    model = perturbify.wrap(Brightness(), method="rse", example_input=X)
    passes = []
    next(iter(perturbify.perturbations(model)))[1].register_forward_hook(lambda m, *_: passes.append(m.enabled))
    with perturbify.noise(model, False):
        found = latencies({"rse": model, "plain": Brightness()}, X, rounds=2)
    assert passes == [True] * 50 * 3
    assert (found["rse"].draws, found["plain"].draws, found["rse"].images) == (50, 1, 2)


def test_a_method_that_averages_gives_as_few_answers_as_take_the_draws():
    model = perturbify.wrap(Brightness(), method="rse", example_input=X)
    plan = replace(PLAN, attacks=("fgsm", "pgd"), draws=60)
    found = compare({"rse": model, "noisy": noisy()}, brightness(4, 4), plan)
    assert [e.figures["pgd"].draws for e in found.entries] == [4, 60]
    assert "rse averages 50 draws for an answer, and gave 4 for each image." in " ".join(to_text(found).split())


# What is refused


class Number(Brightness):
    def forward(self, x):
        return super().forward(x)[:, :1]


@pytest.mark.parametrize(
    ("culprit", "error", "said"),
    [
        (nn.Sequential(Brightness(), nn.Linear(2, 5)), CheckError, "culprit: .*tells 5 classes apart, the data have 2"),
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


def test_a_network_that_gives_no_gradient_is_compared_and_fails():
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
def test_a_name_is_that_of_a_folder(name, tmp_path):
    with pytest.raises(CheckError, match=re.escape(f"called {name!r}")):
        compare({name: Brightness()}, brightness(4, 4), PLAN, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="at least one network"):
        compare({}, brightness(4, 4), PLAN)
    with pytest.raises(ValueError, match="the curve over ε is that of fgsm and pgd, and pgd is not asked for"):
        compare(two(), brightness(4, 4), replace(PLAN, attacks=("fgsm", "sweep")))
    with pytest.raises(CheckError, match="no test images"):
        compare(two(), brightness(0, 0), PLAN)


def test_one_process():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(CheckError, match="runs in one process, and this is one of 2"):
            compare(two(), brightness(4, 4), PLAN)
    finally:
        dist.destroy_process_group()


# How it is told

HOSTILE = "<b>|`x`\x1b[31m\n$y$"


def test_a_hostile_name_is_text():
    found = compare({HOSTILE: Brightness(), "noisy": noisy()}, brightness(4, 4), PLAN)
    text, markdown = to_text(found), to_markdown(found)
    assert not [c for c in text + markdown if not c.isprintable() and c != "\n"]
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "<b>" not in markdown and json.loads(found.to_json())["networks"][0]["name"] == HOSTILE


def test_text_markdown_and_json_tell_the_same():
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
    assert f"this machine alone, as idle as it was ({found.machine['device']}, {threads} thread" in " ".join(
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


def test_networks_without_noise_need_no_columns_for_it():
    found = compare({"plain": Brightness()}, brightness(4, 4), PLAN)
    for said in (to_text(found), to_markdown(found)):
        assert "noise" not in said.replace("no noise", "") and "ahead" not in said and "fresh draws" not in said
        assert "EOT-PGD-4" not in said


def test_a_failed_criterion_is_told():
    dead = noisy(theta=0.01)
    dead.conv.perturb.theta.data.zero_()
    found = compare({"dead": dead, "plain": Brightness()}, brightness(4, 4), PLAN)
    assert found.status == 3 and found.entries[0].report.failures and not found.entries[1].report.failures
    assert "dead FAILED" in to_text(found) and "no fresh noise at conv" in to_text(found)
    assert found.to_dict()["networks"][0]["failures"] == found.entries[0].report.failures
