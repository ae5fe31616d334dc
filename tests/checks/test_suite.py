"""The suite on classifiers whose figures are known beforehand."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks.greys import PLAN, Brightness, Step, brightness, named, noisy
from networks.untouched import untouched
from PIL import Image
from torch import nn

from perturbify import check
from perturbify.attacks import Pgd
from perturbify.checks.plan import FAMILIES
from perturbify.checks.trials import Subject, trials
from perturbify.errors import ModelError

ON, OFF = ("noise on", "on"), ("noise off", "off")
TRIALS = [
    ("clean", *ON),
    ("clean", *OFF),
    ("FGSM", *ON),
    ("PGD-4", *ON),
    ("PGD-4", *OFF),
    ("EOT-PGD-4, 3 draws", *ON),
    ("PGD-4 transfer", "noise off", "on"),
]


def figures(report):
    return {(r.attack, r.crafted_on, r.noise): r.accuracy for r in report.rows}


def without_seconds(report):
    return replace(report, rows=tuple(replace(r, seconds=0.0) for r in report.rows))


def test_a_classifier_of_known_accuracy():
    """40 images that no attack within ε reaches, 10 of them mislabelled, and 20 that every attack turns."""
    report = check(Brightness(), brightness(far=40, near=20, wrong=10), PLAN)
    assert figures(report) == {
        ("clean", *OFF): 50 / 60,
        ("FGSM", *OFF): 0.5,
        ("PGD-4", *OFF): 0.5,
    }
    assert report.n == 60 and all(r.n == 60 and r.draws == 1 and r.majority == r.accuracy for r in report.rows)
    fgsm = report.rows[1]
    assert (fgsm.claimed, fgsm.unperturbed) == (0.5, 0.0)
    assert fgsm.distance["linf"] == pytest.approx(8 / 255, abs=1e-5)


def test_a_plain_network_gets_rows_without_noise_only():
    report = check(Brightness(), brightness(4, 4), PLAN)
    assert [(r.attack, r.crafted_on, r.noise) for r in report.rows] == [
        (name, *OFF) for name in ("clean", "FGSM", "PGD-4")
    ]
    assert report.liveness.sites == 0 and report.to_dict()["deterministic"] is True
    assert report.noise_mode == "none"


def test_a_noisy_one_gets_all():
    report = check(noisy(), brightness(4, 4), PLAN)
    assert [(r.attack, r.crafted_on, r.noise) for r in report.rows] == TRIALS
    assert report.to_dict()["deterministic"] is False
    assert "RobustBench" in report.to_dict()["footnote"]


def test_noise_that_drowns_everything_leaves_chance():
    """Noise off it is right on all but what the attack turns; noise on, every attack finds a coin."""
    report = check(noisy(theta=1e5), brightness(far=150, near=50), PLAN)
    by = figures(report)
    assert (by["clean", *OFF], by["PGD-4", *OFF]) == (1.0, 0.75)
    for trial, accuracy in by.items():
        if trial[2] == "on":
            assert abs(accuracy - 0.5) < 4 * (0.25 / 1000) ** 0.5


def test_noise_too_small_to_matter_changes_no_figure():
    by = figures(check(noisy(theta=0.01), brightness(far=30, near=30), PLAN))
    assert by["clean", *ON] == by["clean", *OFF] == 1.0
    assert all(accuracy == 0.5 for (attack, *_), accuracy in by.items() if attack != "clean")


def test_each_row_says_its_adversary():
    rows = check(noisy(), brightness(4, 4), PLAN).rows
    said = {
        r.attack: (r.epsilon, *(r.settings[k] for k in ("steps", "step_size", "draws"))) for r in rows if r.settings
    }
    assert said == {
        "FGSM": (8 / 255, 1, 8 / 255, 1),
        "PGD-4": (8 / 255, 4, 4 / 255, 1),
        "EOT-PGD-4, 3 draws": (8 / 255, 4, 4 / 255, 3),
        "PGD-4 transfer": (8 / 255, 4, 4 / 255, 1),
    }
    assert all(r.n == 8 and r.interval[0] <= r.accuracy <= r.interval[1] and r.seconds >= 0 for r in rows)
    assert [r.gradient for r in rows] == [0, 0, 1, 4, 4, 12, 4]


def test_crafting_and_scoring_see_the_noise_that_the_row_claims():
    """Every image is scored by draws that the attack has not seen, each in a forward of its own."""
    net = noisy()
    passes = []
    net.conv.perturb.register_forward_hook(lambda m, inputs, _: passes.append((inputs[0].requires_grad, m.enabled)))
    ends = {}
    plan = replace(PLAN, queries=(1, 5))
    check(
        net,
        brightness(4, 4),
        plan,
        on_start=lambda _: passes.clear(),
        on_progress=lambda p: ends.setdefault(p.trial, len(passes)),
    )
    begin, seen = 0, {}
    for trial, end in ends.items():
        during = passes[begin:end]
        seen[trial.partition(" |")[0], during[-1][1]] = (
            [p for p in during if p[0]],
            [p for p in during if not p[0]],
        )
        begin = end
    on, off = True, False
    gradients = {key: [enabled for _, enabled in found[0]] for key, found in seen.items()}
    scores = {key: [enabled for _, enabled in found[1]] for key, found in seen.items()}
    assert gradients == {
        ("clean", on): [],
        ("clean", off): [],
        ("FGSM", on): [on],
        ("PGD-4", on): [on] * 4,
        ("PGD-4", off): [off] * 4,
        ("EOT-PGD-4, 3 draws", on): [on] * 12,
        ("PGD-4 transfer", on): [off] * 4,
    }
    # One pass for what the attack claims, then the scoring draws; a network without noise answers once.
    assert scores["clean", on] == [on] * 5 and scores["clean", off] == [off]
    assert scores["FGSM", on] == [on] * 6 and scores["PGD-4", off] == [off] * 2
    assert scores["PGD-4 transfer", on] == [off] + [on] * 5


def test_images_of_a_batch_have_draws_of_their_own_unless_told_otherwise():
    net = noisy(theta=1e5, share="batch")
    split = brightness(far=100, near=0)
    fresh = check(net, split, replace(PLAN, attacks=()))
    together = check(net, split, replace(PLAN, attacks=(), noise="shared"))
    assert (fresh.noise_mode, together.noise_mode) == ("fresh", "shared")
    assert any("draws of its own" in r for r in fresh.remarks) and any("too narrow" in r for r in together.remarks)
    # By draws of its own an image is right now and then; by shared ones all dark images are right together.
    assert fresh.rows[0].accuracy == pytest.approx(0.5, abs=0.1)  # 100 images by 5 draws: 4.5 deviations
    assert net.conv.perturb.share == "batch"


def test_the_same_seed_gives_the_same_report():
    split = brightness(far=20, near=60)
    net = noisy(theta=12.0)
    first = without_seconds(check(net, split, PLAN))
    torch.manual_seed(99)
    again = without_seconds(check(net, split, PLAN))
    assert first.to_json() == again.to_json()
    other = without_seconds(check(net, split, replace(PLAN, seed=1)))
    assert figures(first) != figures(other)


def test_a_figure_does_not_depend_on_what_else_is_tried():
    split, net = brightness(far=20, near=60), noisy(theta=12.0)
    whole = figures(check(net, split, PLAN))
    alone = figures(check(net, split, replace(PLAN, attacks=("eot",))))
    assert alone.items() <= whole.items() and len(alone) == 3


def test_images_are_the_same_for_all_and_few_are_the_first_of_them():
    split = brightness(far=10, near=20)
    report = check(noisy(), split, replace(PLAN, attacks=("pgd", "few-pixel"), few=2, images=20))
    assert {r.attack: r.n for r in report.rows} == {
        "clean": 20,
        "PGD-4": 20,
        "1 pixel": 2,
        "2 pixels": 2,
        "3 pixels": 2,
    }


def test_the_callers_random_numbers_and_network_are_untouched():
    net = noisy().train()
    net.conv.eval()
    net.conv.perturb.enabled = False
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    with untouched(net):
        check(net, brightness(4, 4), PLAN)


def test_the_callers_random_numbers_are_untouched_by_a_failure():
    net = nn.Sequential(Brightness(), Step())
    with untouched(net), pytest.raises(ModelError):
        check(net, brightness(4, 4), PLAN)


def test_images_are_limited_and_balanced():
    """A network that always says 0 is right on as many images as there are of class 0."""

    class Always(Brightness):
        def forward(self, x):
            return super().forward(x) * 0 + torch.tensor([1.0, 0.0])

    split = brightness(far=40, near=0)
    crowded = split.subset(torch.tensor([*range(0, 40, 2), *range(0, 40, 2), 1, 3, 5, 7, 9, 11]))
    report = check(Always(), crowded, replace(PLAN, images=12))
    assert report.n == 12
    assert {(r.n, r.accuracy) for r in report.rows} == {(12, 0.5)}
    everything = check(Always(), crowded, replace(PLAN, images=1000))
    assert {(r.n, r.accuracy) for r in everything.rows} == {(46, 40 / 46)}


def test_of_a_dataset_the_test_images_are_taken():
    data = replace(named(brightness(4, 4)), train=brightness(100, 0), test=brightness(6, 2))
    report = check(Brightness(), data, PLAN, name="lamp")
    assert (report.n, report.dataset, report.name) == (8, "greys", "lamp")
    assert check(Brightness(), brightness(4, 4), PLAN).dataset == "own images"


def test_an_estimate_comes_first_and_then_progress():
    heard = []
    plan = replace(PLAN, batch_size=4)
    check(Brightness(), brightness(10, 0), plan, on_start=heard.append, on_progress=heard.append)
    expected, *progress = heard
    assert len(expected.costs) == len(progress) == 9 and expected.seconds > 0
    assert [(p.done, p.total) for p in progress] == [(1, 3), (2, 3), (3, 3)] * 3
    assert progress[-1].seconds_left == pytest.approx(0)


def test_a_figure_without_noise_does_not_depend_on_the_batch_size():
    split = brightness(far=10, near=13)
    one, other = (check(Brightness(), split, replace(PLAN, batch_size=b)) for b in (5, 64))
    assert figures(one) == figures(other)


def test_dead_noise_fails_the_report_and_the_figures_still_come():
    net = noisy()
    net.conv.perturb.theta.data.zero_()
    report = check(net, brightness(4, 4), PLAN)
    assert not report.passed and report.rows
    assert any("no fresh noise at conv" in f for f in report.failures)


def test_pictures_show_what_the_attack_did():
    report = check(noisy(), brightness(6, 6), PLAN)
    assert report.example_attack == "EOT-PGD-4, 3 draws" and len(report.examples) == 8
    example = report.examples[0]
    levels = {}
    for name in ("clean", "adversarial", "difference"):
        kind, _, encoded = getattr(example, name).partition(",")
        assert kind == "data:image/png;base64"
        levels[name] = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
    change = levels["adversarial"] - levels["clean"]
    assert levels["clean"].shape == (6, 6, 3) and 0 < abs(change).max() <= 8
    assert abs(levels["difference"] - 127.5 - 10 * change).max() < 10


class Broken(Brightness):
    def forward(self, x):
        return super().forward(x) * float("nan")


def test_not_a_number_is_never_right():
    assert set(figures(check(Broken(), brightness(4, 4), PLAN)).values()) == {0.0}


def test_a_file_of_records_without_a_line_is_begun(tmp_path):
    """As a check leaves it that was killed between making the file and writing to it."""
    records = tmp_path / "records-0.jsonl"
    records.touch()
    first = check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path)
    assert set(json.loads(records.read_text(encoding="utf-8").splitlines()[0])) == {
        "torch",
        "plan",
        "images",
        "networks",
    }
    again = check(Brightness(), brightness(4, 4), PLAN, folder=tmp_path)
    assert again.to_json() == first.to_json(), "with its very times: nothing was done again"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_attacks(family):
    plan = replace(PLAN, attacks=(family,), steps=4, long_steps=4)
    planned = trials(plan, Subject(noisy=True, switchable=True, per_image=True, classes=10))
    assert len(planned) > 2, "the clean images, with noise and without, and the family's own"


@pytest.mark.parametrize("longest", [None, 20])
def test_steps_together_with_draws_say_whether_the_strongest_has_converged(longest):
    """They are held against the strongest attack, unless they are that themselves: on all images they may be."""
    plan = replace(PLAN, attacks=("pgd", "long"), long_steps=8, longest=longest)
    report = check(noisy(theta=12.0), brightness(far=20, near=60), plan)
    (row,) = [r for r in report.rows if r.attack == "EOT-PGD-8, 3 draws"]
    assert row.n == (longest or 80)
    (criterion,) = [c for c in report.criteria if c.name == "more steps and restarts change nothing"]
    held = [e for e in criterion.evidence if e.statement.endswith("less that under EOT-PGD-8, 3 draws")]
    assert len(held) == (report.strongest.attack != "EOT-PGD-8, 3 draws")
    if longest:
        assert held


def test_a_random_rival_is_attacked_by_steps_together_with_draws_as_well():
    subject = Subject(noisy=True, switchable=True, per_image=True, classes=10, rival="other", rival_noisy=True)
    planned = trials(replace(PLAN, long_steps=20, eot_draws=6), subject)
    longest = {t.network: t for t in planned if t.role == "longer and averaged"}
    assert longest["other"].attack == Pgd(8 / 255, 4 / 255, 20, draws=3)
    assert all(t.role != "longer and averaged" for t in trials(PLAN, replace(subject, rival_noisy=False)))
