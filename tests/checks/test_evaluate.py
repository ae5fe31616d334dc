"""Crafting and scoring, on classifiers whose figures are known beforehand."""

import base64
import io
import json
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from networks import together
from networks.greys import PLAN, Brightness, Step, brightness, named, noisy
from networks.shared_out import whole_check, whole_report
from networks.untouched import untouched
from PIL import Image
from torch import nn

from perturbify import check
from perturbify.attacks import Crafted, Passes
from perturbify.checks import PRESETS, Case, CheckPlan, run
from perturbify.checks.evaluate import ENOUGH, seed_of
from perturbify.checks.render import to_text
from perturbify.errors import CheckError
from perturbify.generators import seeded
from perturbify.ranks import Ranks

ALL = ["clean", "fgsm", "pgd", "twin-pgd", "eot", "transfer-twin"]


def figures(report):
    return {r.id: r.accuracy for r in report.results}


def without_seconds(report):
    return replace(report, results=tuple(replace(r, seconds=0.0) for r in report.results))


def test_a_classifier_of_known_accuracy():
    """40 images that no attack within ε reaches, 10 of them mislabelled, and 20 that every attack turns."""
    report = check(Brightness(), brightness(far=40, near=20, wrong=10), PLAN)
    assert figures(report) == {"clean": 50 / 60, "fgsm": 0.5, "pgd": 0.5}
    assert all(r.n == r.attacked == 60 and r.draws == 1 and r.majority.value == r.accuracy for r in report.results)
    fgsm = report.result("fgsm")
    assert (fgsm.claimed, fgsm.unperturbed) == (0.5, 0.0)
    assert fgsm.distance["linf"] == pytest.approx(8 / 255, abs=1e-5)
    assert report.headline.accuracy == 0.5 and report.headline.best.value == 0.5


def test_a_plain_network_and_a_noisy_one():
    plain, random = check(Brightness(), brightness(4, 4), PLAN), check(noisy(), brightness(4, 4), PLAN)
    assert [r.id for r in plain.results] == ["clean", "fgsm", "pgd"] and {r.noise for r in plain.results} == {"off"}
    assert plain.liveness.sites == 0 and plain.deterministic and plain.noise_mode == "none"
    assert [r.id for r in random.results] == ALL
    assert not random.deterministic and random.noise_mode == "fresh"
    assert [r.id for r in random.results if r.noise == "off"] == ["twin-pgd"]


def test_a_network_without_a_name_is_named_once():
    report = check(Brightness(), brightness(4, 4), PLAN)
    assert repr(report).count("Brightness") == to_text(report).count("Brightness") == 1


def test_overwhelming_noise_leaves_chance_accuracy():
    """Noise off it is right on all but what the attack turns; noise on, every attack finds a coin."""
    report = check(noisy(theta=1e5), brightness(far=150, near=50), PLAN)
    for result in report.results:
        if result.noise == "on":
            assert abs(result.accuracy - 0.5) < 4 * (0.25 / 1000) ** 0.5
    assert report.result("twin-pgd").accuracy == 0.75


def test_negligible_noise_changes_no_figure():
    by = figures(check(noisy(theta=0.01), brightness(far=30, near=30), PLAN))
    assert by.pop("clean") == 1.0 and set(by.values()) == {0.5}


def test_each_result_states_its_adversary():
    results = check(noisy(), brightness(4, 4), PLAN).results
    keys = ("steps", "step_size", "draws")
    said = {r.id: (r.epsilon, *(r.settings[k] for k in keys)) for r in results if r.settings}
    assert said == {
        "fgsm": (8 / 255, 1, 8 / 255, 1),
        "pgd": (8 / 255, 4, 4 / 255, 1),
        "twin-pgd": (8 / 255, 4, 4 / 255, 1),
        "eot": (8 / 255, 4, 4 / 255, 3),
        "transfer-twin": (8 / 255, 4, 4 / 255, 1),
    }
    assert all(r.n == 8 and r.interval[0] <= r.accuracy <= r.interval[1] and r.seconds >= 0 for r in results)
    assert {r.id: r.gradient for r in results if r.id != "clean"} == {
        **{"fgsm": 1, "pgd": 4, "twin-pgd": 4},
        **{"eot": 12, "transfer-twin": 4},
    }


def test_crafting_and_scoring_use_the_stated_noise():
    """Every image is scored by draws that the attack has not seen, each in a forward of its own."""
    net = noisy()
    passes = []
    net.conv.perturb.register_forward_hook(lambda m, inputs, _: passes.append((inputs[0].requires_grad, m.enabled)))
    ends = []
    check(
        net,
        brightness(4, 4),
        PLAN,
        on_start=lambda _: passes.clear(),
        on_progress=lambda p: ends.append(len(passes)),
    )
    seen = {}
    for id, begin, end in zip(ALL, [0, *ends], ends, strict=False):
        seen[id] = passes[begin:end]
    on, off = True, False
    assert {id: [e for watched, e in found if watched] for id, found in seen.items()} == {
        **{"clean": [], "fgsm": [on], "pgd": [on] * 4, "twin-pgd": [off] * 4},
        **{"eot": [on] * 12, "transfer-twin": [off] * 4},
    }
    scores = {id: [e for watched, e in found if not watched] for id, found in seen.items()}
    # One pass for what the attack claims, then the scoring draws; a network without noise answers once.
    assert scores["clean"] == [on] * 5 and scores["twin-pgd"] == [off] * 2
    assert scores["fgsm"] == [on] * 6 and scores["transfer-twin"] == [off] + [on] * 5


def test_each_image_has_separate_draws_by_default():
    net = noisy(theta=1e5, draw_per="batch")
    split = brightness(far=200, near=0)
    dark = split.subset((split.labels == 0).nonzero().flatten())
    fresh = check(net, dark, replace(PLAN, attacks=()))
    common = check(net, dark, replace(PLAN, attacks=(), noise="shared", batch_size=100))
    assert (fresh.noise_mode, common.noise_mode) == ("fresh", "shared")
    assert any("its own draws" in r for r in fresh.remarks)
    # By draws of its own an image is right now and then; by shared ones all are right together.
    assert fresh.clean.accuracy == pytest.approx(0.5, abs=0.1)  # 100 images by 5 draws: 4.5 deviations
    assert set(common.clean.right.mean(0)) == {0.0, 1.0}
    assert not fresh.clean.shared and common.clean.shared
    widths = [high - low for low, high in (r.clean.interval for r in (fresh, common))]
    assert widths[1] > 4 * widths[0], "five draws say little of the others"
    assert net.conv.perturb.draw_per == "batch"


def test_the_same_seed_gives_the_same_report():
    split = brightness(far=20, near=60)
    net = noisy(theta=12.0)
    first = without_seconds(check(net, split, PLAN))
    torch.manual_seed(99)
    again = without_seconds(check(net, split, PLAN))
    assert first.to_json() == again.to_json()
    assert figures(first) != figures(check(net, split, replace(PLAN, seed=1)))


def test_a_figure_does_not_depend_on_other_attacks():
    split, net = brightness(far=20, near=60), noisy(theta=12.0)
    whole = figures(check(net, split, PLAN))
    alone = figures(check(net, split, replace(PLAN, attacks=("eot",))))
    assert alone.items() <= whole.items() and len(alone) == 2


def test_expensive_attacks_get_the_first_few_images():
    plan = replace(PLAN, attacks=("pgd", "few-pixel"), few=2, images=20, population=10, generations=2)
    report = check(Brightness(), brightness(far=10, near=20), plan)
    assert {r.id: r.n for r in report.results} == {"clean": 20, "pgd": 20, "1-pixel": 2, "2-pixel": 2, "3-pixel": 2}


def test_images_are_limited_and_balanced():
    """A network that always says 0 is right on as many images as there are of class 0."""

    class Always(Brightness):
        def forward(self, x):
            return super().forward(x) * 0 + torch.tensor([1.0, 0.0])

    split = brightness(far=40, near=0)
    crowded = split.subset(torch.tensor([*range(0, 40, 2), *range(0, 40, 2), 1, 3, 5, 7, 9, 11]))
    report = check(Always(), crowded, replace(PLAN, images=12))
    assert {(r.n, r.accuracy) for r in report.results} == {(12, 0.5)}
    everything = check(Always(), crowded, replace(PLAN, images=1000))
    assert {(r.n, r.accuracy) for r in everything.results} == {(46, 40 / 46)}


def test_without_noise_batch_size_changes_no_figure():
    split = brightness(far=10, near=13)
    one, other = (check(Brightness(), split, replace(PLAN, batch_size=b)) for b in (5, 64))
    assert figures(one) == figures(other)


def test_nan_is_never_right():
    class Broken(Brightness):
        def forward(self, x):
            return super().forward(x) * float("nan")

    report = check(Broken(), brightness(4, 4), PLAN)
    assert set(figures(report).values()) == {0.0} and report.verdict == "failed"


# What stands


@dataclass(frozen=True)
class Noting:
    """Notes how many images it is given."""

    given: tuple = ()
    norm = "linf"
    epsilon = 8 / 255
    passes = Passes(1, 0)

    def craft(self, model, x, y):
        GIVEN.append(len(x))
        return Crafted(x, torch.zeros(len(x), dtype=torch.bool))


GIVEN = []
STANDING = Case("noting", "noting", "black box", Noting(), standing=True)
CASCADE = replace(PLAN, attacks=("fgsm", "pgd", STANDING))


@pytest.mark.parametrize(("draws", "given"), [(ENOUGH, 30), (ENOUGH + 5, 30), (ENOUGH - 1, 50), (5, 50), (1, 50)])
def test_a_random_network_loses_images_after_twenty_draws(draws, given):
    GIVEN.clear()
    report = check(noisy(theta=0.01), brightness(far=30, near=20), replace(CASCADE, draws=draws))
    assert [given] == GIVEN
    found = report.result("noting")
    assert (found.n, found.attacked) == (50, given)
    assert found.accuracy == (30 / 50 if given == 30 else 1.0), "what was left out counts as wrong"


def test_a_deterministic_network_loses_images_at_once():
    GIVEN.clear()
    report = check(Brightness(), brightness(far=30, near=20, wrong=4), CASCADE)
    assert GIVEN == [26], "also where the clean image is wrong"
    assert report.result("noting").accuracy == report.headline.accuracy == 26 / 50


def test_an_image_with_any_right_draw_stays_in():
    """Noise that turns an answer now and then loses no image."""
    GIVEN.clear()
    report = check(noisy(theta=12.0), brightness(far=0, near=60), replace(CASCADE, draws=20))
    lost = sum(~np.all([r.right.any(1) for r in report.results if r.id in ("clean", "fgsm", "pgd")], axis=0))
    assert [60 - lost] == GIVEN and 0 < lost < 60


def test_with_no_images_left_nothing_is_attacked():
    GIVEN.clear()
    found = check(Brightness(), brightness(far=0, near=12), CASCADE).result("noting")
    assert GIVEN == [] and (found.n, found.attacked, found.accuracy, found.distance) == (12, 0, 0.0, {})


class Grey(Noting):
    """Makes every image grey, in whatever ball."""

    norm = "linf"

    def craft(self, model, x, y):
        return Crafted(torch.full_like(x, 0.49), torch.ones(len(x), dtype=torch.bool))


@dataclass(frozen=True)
class Wide(Grey):
    epsilon = 16 / 255


@dataclass(frozen=True)
class InL2(Grey):
    norm = "l2"
    epsilon = 2.0


@pytest.mark.parametrize(
    ("case", "given"),
    [
        (Case("within", "", "white box", Grey()), 6),
        (Case("wide", "", "sweep", Wide()), 12),
        (Case("l2", "", "other", InL2()), 12),
        (Case("twin", "", "other", Grey(), on="twin", twin=True), 12),
        (Case("known", "", "other", Grey(), on="known"), 12),
        (Case("few", "", "white box", Grey(), images=4), 10),
    ],
    ids=lambda c: getattr(c, "id", ""),
)
def test_success_in_another_setting_loses_no_image(case, given):
    """In another ball, on the twin, on noise that it knew; a dark image that turned grey stays dark."""
    GIVEN.clear()
    check(noisy(theta=0.01), brightness(far=0, near=12), replace(PLAN, attacks=(case, STANDING), draws=20))
    assert [given] == GIVEN


def test_skipped_images_do_not_change_the_others_draws():
    """All cases of a batch meet the same noise, image by image."""
    net, split = noisy(theta=12.0), brightness(far=20, near=40)
    report = check(net, split, replace(PLAN, attacks=("fgsm", STANDING), draws=20))
    clean, noting = report.clean.right, report.result("noting")
    attacked = noting.right.any(1)
    assert 0 < noting.attacked < 60 and (noting.right[attacked] == clean[attacked]).all(), "it gave them back"


# What is left as it was


def test_the_callers_random_numbers_and_network_are_untouched():
    net = noisy().train()
    net.conv.eval()
    net.conv.perturb.enabled = False
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    with untouched(net):
        check(net, brightness(4, 4), PLAN)
        check(net, brightness(4, 4), replace(PRESETS["quick"], tries=2, gradients=2, square_queries=8))


def test_an_interruption_leaves_them_untouched():
    net = noisy().train()

    def interrupt(_):
        raise KeyboardInterrupt

    with untouched(net), pytest.raises(KeyboardInterrupt):
        check(net, brightness(4, 4), PLAN, on_progress=interrupt)


class Normed(nn.Module):
    """Has buffers that a forward in train mode would move."""

    def __init__(self):
        super().__init__()
        self.norm, self.net = nn.BatchNorm2d(3), Brightness()

    def forward(self, x):
        return self.net(self.norm(x))


def test_buffers_are_untouched():
    net, other, baseline = (Normed().train() for _ in range(3))
    with untouched(net), untouched(other), untouched(baseline):
        check(net, brightness(4, 4), PLAN, sources={"other": other}, against=("baseline", baseline))


# What does not work as it should

HARD = nn.Sequential(Brightness(), Step())


def test_dead_noise_fails_but_figures_are_still_reported():
    net = noisy()
    net.conv.perturb.theta.data.zero_()
    report = check(net, brightness(4, 4), PLAN)
    assert report.verdict == "failed" and figures(report)["clean"] == 1.0
    assert any("no fresh noise at conv" in f for f in report.failures)


def test_a_network_without_gradients_is_still_checked():
    net = nn.Sequential(Brightness(), Step())
    with untouched(net):
        report = check(net, brightness(30, 30), replace(PRESETS["quick"], square_queries=50, images=60))
    assert (report.verdict, report.status, report.dead_gradients) == ("failed", 3, 1.0)
    assert {r.id for r in report.results} == {"clean", "random", "square"}
    (remark,) = [r for r in report.remarks if r.startswith("Not run (the network has no gradient)")]
    assert "FGSM" in remark and "Margin-PGD-40" in remark
    assert report.result("square").accuracy < 1, "which needs none"


def test_transfer_works_on_targets_without_gradients():
    net = nn.Sequential(Brightness(), Step())
    report = check(net, brightness(30, 30), PLAN, sources={"plain": Brightness()})
    assert {r.id for r in report.results} == {"clean", "transfer from plain"}


@pytest.mark.parametrize(
    "given", [{"sources": {"hard": HARD}}, {"against": ("hard", HARD)}], ids=lambda g: next(iter(g))
)
def test_a_source_without_gradients_does_not_stop_checks(given):
    plan = replace(PLAN, attacks=("fgsm", "pgd", "margin", "transfer"), gradients=2)
    report = check(Brightness(), brightness(4, 4), plan, **given)
    assert {"clean", "fgsm", "pgd", "margin"} <= {r.id for r in report.results}


@dataclass(frozen=True)
class Astray:
    """Leaves the ball that it says it keeps."""

    norm = "linf"
    epsilon = 8 / 255
    passes = Passes(1, 0)

    def craft(self, model, x, y):
        return Crafted(1 - x, torch.ones(len(x), dtype=torch.bool))


class Void(Astray):
    """Gives no images."""

    def craft(self, model, x, y):
        return Crafted(x * float("nan"), torch.ones(len(x), dtype=torch.bool))


@pytest.mark.parametrize("attack", [Astray(), Void()])
def test_an_attack_that_leaves_its_ball_is_refused(attack):
    """It would lower the headline to what no attack in the ball reaches."""
    with pytest.raises(CheckError):
        check(Brightness(), brightness(4, 4), PLAN, attacks=["fgsm", attack])


def test_a_users_case_may_be_called_pgd():
    @dataclass(frozen=True)
    class Mine(Noting):
        passes = Passes(1, 3)

    mine = Case("pgd", "mine", "white box", Mine())
    try:
        report = check(Brightness(), brightness(4, 4), PLAN, attacks=["fgsm", mine])
    except KeyError:
        pytest.fail("after all the work")
    assert report.result("pgd").attack == "mine"


def test_a_network_that_changes_while_it_is_checked():
    class Tiring(Brightness):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1 if self.calls < 115 else -1)

    plan = replace(PRESETS["quick"], attacks=("margin", "random"), gradients=60)
    report = check(Tiring(), brightness(10, 10), plan)
    (lasting,) = [c for c in report.criteria if c.name == "the check has not changed the network"]
    assert lasting.outcome == "fail" and report.status == 3
    honest = check(noisy(), brightness(10, 10), plan)
    assert next(c for c in honest.criteria if c.name == lasting.name).outcome == "pass"


def test_foreign_noise_is_never_established():
    class Loud(Brightness):
        def forward(self, x):
            z = super().forward(x)
            return z + 0.1 * torch.randn_like(z)

    report = check(Loud(), brightness(6, 6), PLAN)
    assert report.noise_mode == "foreign" and report.verdict != "established"
    assert any("random numbers that are not perturbify's" in r for r in report.remarks)
    (apart,) = [c for c in report.criteria if c.name == "the noise can be switched off and fixed"]
    assert apart.core and apart.outcome == "not measured"


# What is told


def test_an_estimate_comes_first_and_then_progress():
    heard = []
    plan = replace(PLAN, batch_size=4)
    check(Brightness(), brightness(10, 0), plan, on_start=heard.append, on_progress=heard.append)
    expected, *progress = heard
    assert len(expected.costs) == len(progress) == 9 and expected.seconds > 0
    assert [(p.case, p.done, p.total) for p in progress] == [
        (case, i, 3) for case in ("clean", "FGSM", "PGD-4") for i in (1, 2, 3)
    ]
    assert progress[-1].seconds_left == pytest.approx(0)


def test_examples_show_the_attack_and_the_predictions():
    split = brightness(6, 6, wrong=1)
    report = check(noisy(theta=0.01), named(split), PLAN)
    assert report.example_attack == "eot" and len(report.examples) == 8
    ordered = split.interleaved()
    for example, right in zip(report.examples, report.result("eot").right, strict=False):
        levels = {}
        for name in ("clean", "adversarial", "difference"):
            kind, _, encoded = getattr(example, name).partition(",")
            assert kind == "data:image/png;base64"
            levels[name] = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
        change = levels["adversarial"] - levels["clean"]
        assert levels["clean"].shape == (6, 6, 3) and 0 < abs(change).max() <= 8
        assert abs(levels["difference"] - 127.5 - 10 * change).max() < 10
        bright = levels["adversarial"].mean() > 127.5
        assert example.answer == ("bright" if bright else "dark") and example.accuracy == right.mean()
        assert example.clean_answer == ("bright" if levels["clean"].mean() > 127.5 else "dark")
    assert [e.label for e in report.examples] == [("dark", "bright")[y] for y in ordered.labels[:8]]
    assert {e.clean_accuracy for e in report.examples} == {0.0, 1.0}


def test_a_networks_method_is_part_of_its_architecture():
    report = check(noisy(), brightness(4, 4), replace(PLAN, attacks=()))
    assert report.architecture.endswith(", learn2perturb")


@pytest.mark.parametrize(("given", "preset"), [({}, "quick"), ({"attacks": ["fgsm"]}, "custom")])
def test_a_preset_with_other_attacks_is_custom(given, preset):
    plan = replace(PRESETS["quick"], tries=1, gradients=1, square_queries=1)
    assert check(Brightness(), brightness(2, 2), plan, **given).preset == preset


# What was done is not done again


def lines(folder, rank=0):
    return (folder / f"records-{rank}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def test_a_killed_check_resumes_where_it_stopped(tmp_path):
    """Killed after any record, or while it wrote one."""
    whole = whole_check(tmp_path)
    written = lines(tmp_path)
    assert len(written) == 1 + 4 * 5 and "settings" in json.loads(written[0])["attacks"][0]
    wanted = without_seconds(whole).to_json()
    for kept in range(0, len(written) + 1, 4):
        for half in (False, True):
            cut = written[kept][: len(written[kept]) // 2] if half and kept < len(written) else ""
            (tmp_path / "records-0.jsonl").write_text("".join(written[:kept]) + cut, encoding="utf-8")
            done = []
            again = whole_check(tmp_path, on_progress=done.append)
            assert without_seconds(again).to_json() == wanted
            assert len(done) == 20 - max(0, kept - 1)
            assert len(lines(tmp_path)) == 21
    assert json.loads(lines(tmp_path)[0])["plan"]["images"] is None


def test_a_finished_check_repeats_its_recorded_times(tmp_path):
    first = check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path)
    again = check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path, on_start=pytest.fail)
    assert again.to_json() == first.to_json()


def test_an_empty_records_file_is_started_over(tmp_path):
    """As a check leaves it that was killed between making the file and writing to it."""
    (tmp_path / "records-0.jsonl").touch()
    check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path)
    assert set(json.loads(lines(tmp_path)[0])) == {"torch", "plan", "attacks", "images", "networks"}


OTHERS = {
    "plan": lambda f: check(Brightness(), brightness(4, 4), replace(PLAN, seed=1), folder=f),
    "attacks": lambda f: check(Brightness(), brightness(4, 4), PLAN, attacks=["fgsm"], folder=f),
    "images": lambda f: check(Brightness(), brightness(5, 4), PLAN, folder=f),
    "networks": lambda f: check(Normed(), brightness(4, 4), PLAN, folder=f),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_folder_of_another_check_is_refused(what, tmp_path):
    check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path)
    before = lines(tmp_path)
    with pytest.raises(CheckError, match=f"holds the records of another check, which differs in {what}"):
        OTHERS[what](tmp_path)
    assert lines(tmp_path) == before


@pytest.mark.parametrize("damage", ["not json\n", "[]\n", '{"case": 1}\n', "\n"])
def test_damaged_records_are_refused(damage, tmp_path):
    check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path)
    path = tmp_path / "records-0.jsonl"
    path.write_text("".join(lines(tmp_path)[:2]) + damage + "".join(lines(tmp_path)[2:]), encoding="utf-8")
    with pytest.raises(CheckError, match="is damaged"):
        check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path)


@pytest.mark.parametrize("fault", ["a name of two lines", "a cut character"])
def test_class_names_of_any_alphabet_survive_a_kill(fault, tmp_path):
    classes = ("dark\u2028ness", "bright") if fault == "a name of two lines" else ("düster", "hell")
    data = named(brightness(4, 4), classes)
    whole = check(Brightness(), data, PLAN, folder=tmp_path)
    path = tmp_path / "records-0.jsonl"
    if fault == "a cut character":
        written = path.read_bytes()
        path.write_bytes(written[: written.rindex("ü".encode()) + 1])
    again = check(Brightness(), data, PLAN, folder=tmp_path)
    assert without_seconds(again).to_json() == without_seconds(whole).to_json()


def timeless(values):
    return values | {"results": [r | {"seconds": 0} for r in values["results"]], "machine": None}


def shared_out(folder):
    return [{json.loads(line)["batch"] for line in lines(folder, rank)[1:]} for rank in range(2)]


def test_two_processes_share_whole_batches(tmp_path, monkeypatch):
    """What stands in a batch is known to whom the batch belongs."""
    alone = timeless(whole_check().to_dict())
    assert 0 < alone["results"][-1]["attacked"] < 80, "the cascade left out some"

    @dataclass(frozen=True)
    class One(Ranks):
        """One of two, which after its own work finds what the other has left in the folder."""

        def gather(self, found):
            return [found]

    for rank in range(2):
        monkeypatch.setattr(run, "ranks", lambda rank=rank: nullcontext(One(rank, 2)))
        found = timeless(whole_check(tmp_path).to_dict())
    assert shared_out(tmp_path) == [{0, 2, 4}, {1, 3}]
    assert found == alone
    monkeypatch.undo()
    assert timeless(whole_check(tmp_path, on_start=pytest.fail).to_dict()) == alone, "one process goes on for two"


@pytest.mark.slow
def test_two_processes_under_torchrun(tmp_path):
    first, second = together.run(whole_report, tmp_path)
    assert timeless(first) == timeless(second) == timeless(whole_check().to_dict())
    assert shared_out(tmp_path) == [{0, 2, 4}, {1, 3}]


def test_seeds_depend_on_all_their_parts():
    seeds = {seed_of(*parts) for parts in ((0, "pgd", 0), (1, "pgd", 0), (0, "fgsm", 0), (0, "pgd", 1))}
    assert len(seeds) == 4 and seed_of(0, "pgd", 0) == seed_of(0, "pgd", 0)
    with seeded(seed_of(0, "pgd", 0)):
        torch.rand(1)


def test_presets_use_the_documented_image_counts():
    assert [plan.images for plan in PRESETS.values()] == [256, 1000, None]
    assert CheckPlan().attacks == PRESETS["quick"].attacks
