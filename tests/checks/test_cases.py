"""Which attacks a check runs on whom."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch

from perturbify import attacks, check
from perturbify.attacks import Crafted, MarginPgd, Passes, Pgd, registry
from perturbify.checks import PRESETS, Case, CheckPlan, preset
from perturbify.checks.cases import Subject, baseline_cases, cases, known
from perturbify.checks.evaluate import ENOUGH

PLAIN = Subject(noisy=False, switchable=False, per_image=False, classes=10)
NOISY = Subject(noisy=True, switchable=True, per_image=True, classes=10)
FOREIGN = Subject(noisy=True, switchable=False, per_image=False, classes=10)
WEIGHTS = Subject(noisy=True, switchable=True, per_image=False, classes=10)
SUBJECTS = {"plain": PLAIN, "noisy": NOISY, "foreign": FOREIGN, "weights": WEIGHTS}
OURS = {"twin-clean", "twin-pgd", "twin-margin", "known", "transfer-twin"}
QUICK = (
    *("clean", "fgsm", "pgd", "margin", "longer", "random", "square", "unbounded"),
    *("fgsm at 0.0156863", "pgd at 0.0156863", "fgsm at 0.0627451", "pgd at 0.0627451"),
)


def ids(plan, subject):
    return [case.id for case in cases(plan, subject)]


@pytest.mark.parametrize("who", SUBJECTS)
def test_quick(who):
    found = ids(PRESETS["quick"], SUBJECTS[who])
    assert set(found) == set(QUICK) | (OURS if SUBJECTS[who].switchable else set())
    assert found[0] == "clean" and len(found) == len(set(found))


@pytest.mark.parametrize("name", ["standard", "paper"])
def test_inapplicable_cases_are_left_out(name):
    found = {who: set(ids(PRESETS[name], subject)) for who, subject in SUBJECTS.items()}
    assert found["noisy"] - found["foreign"] == {*OURS, "frozen"}
    assert found["foreign"] - found["plain"] >= {"eot", "eot-half"}
    assert found["plain"] - found["noisy"] == {"fab"}, "which looks for a border"
    two = set(ids(PRESETS[name], replace(PLAIN, classes=2)))
    assert found["plain"] - two == {"targets", "apgd-t", "fab", "stock"}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("who", SUBJECTS)
def test_every_preset_includes_gradient_free_attacks(name, who):
    without = [c for c in cases(PRESETS[name], SUBJECTS[who]) if c.attack and not c.needs_gradient]
    assert "square" in {c.id for c in without if c.role == "black box"}
    (square,) = [c for c in without if c.id == "square"]
    assert (square.images or 1000) >= 256, "so many that its criterion can pass"


@pytest.mark.parametrize("who", SUBJECTS)
def test_each_preset_covers_its_criteria(who):
    for plan in PRESETS.values():
        roles = Counter(c.role for c in cases(plan, SUBJECTS[who]))
        assert roles["clean"] == 1
        assert all(roles[r] for r in ("one step", "white box", "longer", "black box", "unbounded", "sweep"))
        assert plan.draws >= ENOUGH, "or no image would ever count as lost"


def test_the_unbounded_attack_starts_from_the_image():
    (case,) = [c for c in cases(PRESETS["quick"], PLAIN) if c.role == "unbounded"]
    assert case.attack.epsilon == 1.0 and not case.attack.random_start


def test_steps_of_a_sweep_grow_with_epsilon():
    plan = PRESETS["standard"]
    found = [c.attack for c in cases(plan, NOISY) if c.id.startswith("pgd at")]
    assert len(found) == 6
    for attack in found:
        assert attack.step_size / attack.epsilon == pytest.approx(0.01 / (8 / 255))
    small = {c.id: c.attack for c in cases(replace(plan, epsilon=4 / 255), PLAIN)}
    assert small["pgd"].step_size == pytest.approx(0.005), "also of PGD itself, where nobody says it"
    assert cases(replace(plan, epsilon=4 / 255, step_size=0.01), PLAIN)[2].attack.step_size == 0.01


def test_the_longer_attack_uses_four_times_the_gradients():
    for subject in (PLAIN, NOISY):
        by = {c.id: c.attack for c in cases(PRESETS["quick"], subject)}
        once, longer = (by[i].steps * by[i].draws for i in ("margin", "longer"))
        assert (once, longer) == (40, 160)


def test_draws_are_batched_only_with_per_image_noise():
    plan = replace(PRESETS["standard"], at_once=4)
    at_once = {who: {c.id: c.attack for c in cases(plan, s)}.get("eot") for who, s in SUBJECTS.items()}
    assert {who: a and a.at_once for who, a in at_once.items()} == {
        **{"plain": None, "noisy": 4},
        **{"foreign": 1, "weights": 1},
    }


def test_other_networks_to_transfer_from():
    found = [c for c in cases(PRESETS["quick"], replace(PLAIN, sources=("a", "b"))) if c.on == "other"]
    assert [(c.source, c.role) for c in found] == [("a", "black box"), ("b", "black box")]


def test_a_baseline_gets_clean_images_and_strongest_attacks():
    found = baseline_cases(PRESETS["quick"], PLAIN, "theirs")
    assert [c.id for c in found] == ["clean of theirs", "margin of theirs", "longer of theirs"]
    assert {c.network for c in found} == {"theirs"}


# What a user brings


@dataclass(frozen=True)
class Darker:
    """Takes light away: an attack as a user would write one."""

    epsilon: float = 8 / 255
    norm = "linf"
    passes = Passes(forward=1, gradient=0)

    def craft(self, model, x, y):
        images = (x - self.epsilon).clamp(0, 1)
        with torch.no_grad():
            return Crafted(images, model(images).argmax(1) != y)


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def test_a_users_attack_joins_a_preset():
    found = cases(CheckPlan(attacks=(*preset("quick"), Darker())), PLAIN)
    assert [c.id for c in found[:-1]] == ids(PRESETS["quick"], PLAIN)
    assert (found[-1].name, found[-1].role, found[-1].attack) == ("Darker", "black box", Darker())
    assert cases(CheckPlan(attacks=(MarginPgd(8 / 255, 3),)), PLAIN)[-1].role == "white box"


def test_a_users_case_is_used_unchanged():
    mine = Case("mine", "Mine", "one step", Darker(), images=3)
    assert cases(CheckPlan(attacks=("fgsm", mine)), PLAIN)[-1] is mine


def test_a_registered_attack_is_known_by_its_name(own_registry):
    attacks.register("darker", Darker, about="takes light away", role="black box")
    attacks.register("picky", Darker, about="wants four classes", role="white box", needs=["4 classes"])
    assert known()["darker"] == "takes light away"
    (_, case) = cases(CheckPlan(attacks=("darker",), epsilon=4 / 255), PLAIN)
    assert (case.id, case.role, case.attack) == ("darker", "black box", Darker(4 / 255))
    assert ids(CheckPlan(attacks=("picky",)), PLAIN) == ["clean", "picky"]
    assert ids(CheckPlan(attacks=("picky",)), replace(PLAIN, classes=3)) == ["clean"]


def test_a_users_attack_does_not_replace_another():
    found = cases(CheckPlan(attacks=("pgd", Pgd(8 / 255, steps=50), Pgd(8 / 255, steps=90))), PLAIN)
    assert sorted(c.attack.steps for c in found if c.attack) == [7, 50, 90]


def test_an_attack_says_its_role():
    class OneStep(Darker):
        role = "one step"

    assert cases(CheckPlan(attacks=(OneStep(),)), PLAIN)[-1].role == "one step"


@pytest.mark.parametrize(("name", "near"), [("pdg", "'pgd'"), ("sqare", "'square'"), ("margn", "'margin'")])
def test_an_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"there is no attack '{name}'. Did you mean .*{near}"):
        cases(CheckPlan(attacks=("fgsm", name)), PLAIN)
    with pytest.raises(ValueError, match=f"no attack '{name}'"):
        check(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)),
            (torch.rand(4, 3, 2, 2), torch.arange(4) % 2),
            CheckPlan(attacks=(name,)),
        )


def test_an_unknown_preset():
    with pytest.raises(ValueError, match="no preset 'fast'; there are quick, standard, paper"):
        preset("fast")


def test_every_known_name_has_a_one_line_description():
    assert set(known()) >= {n for plan in PRESETS.values() for n in plan.attacks}
    assert all(about and "\n" not in about for about in known().values())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"images": 0}, {"batch_size": 0}, {"epsilon": 2.0}, {"steps": -1}, {"step_size": -0.1}, {"eot_draws": 0}),
        *({"few": 0}, {"draws": 0}, {"queries": ()}, {"noise": "loud"}, {"restarts": 0}, {"gradients": 0}),
    ],
    ids=str,
)
def test_plan_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at least|epsilon|negative|loud"):
        CheckPlan(**wrong)
