"""What results made by hand prove, and the worst case of them."""

from dataclasses import replace

import numpy as np
import pytest
from networks.results import ALIVE, EPSILON, QUIET, drawn, first, result

from perturbify.checks.criteria import TOLERANCE, Found, called, criteria, difference, gain
from perturbify.checks.evidence import verdict
from perturbify.checks.results import Point
from perturbify.checks.statistics import worst_of

CLEAN = result("clean", first(240), "clean")
ONE, MANY = "one step never beats many", "black-box never beats white-box"
STRONGER, UNBOUNDED = "a stronger attack never leaves a higher accuracy", "an unbounded attack reaches chance or below"
CONVERGED, LARGER = "more steps and draws change nothing", "a larger ε never helps the model"


def judged(*results, classes=10, liveness=QUIET, baseline=None):
    found = criteria((CLEAN, *results), epsilon=EPSILON, classes=classes, liveness=liveness, baseline=baseline)
    return {c.name: c for c in found}


def outcome(name, *results, **settings):
    return judged(*results, **settings)[name].outcome


def pgd(k, role="white box", **changes):
    return result("pgd", first(k), role, **changes)


def all_well():
    """An honest check: the attacks leave 100 of 256, and nothing beats them."""
    epsilon = {"points": (Point("epsilon", "PGD-7", 2 * EPSILON),), "epsilon": 2 * EPSILON}
    return (
        result("fgsm", first(110), "one step"),
        pgd(100, points=(Point("epsilon", "PGD-7", EPSILON),)),
        result("margin", first(100), gradient=40.0),
        result("longer", first(100), "longer"),
        result("random", first(180, 128), "black box"),
        result("square", first(100), "black box"),
        result("unbounded", first(0), "unbounded", epsilon=1.0),
        result("pgd at 2", first(20), "sweep", **epsilon),
    )


def test_an_honest_check_is_established():
    found = judged(*all_well())
    assert {c.outcome for c in found.values()} == {"pass"}
    assert verdict(tuple(found.values())) == "established"


def test_a_missing_attack_leaves_its_criterion_open():
    lost = {}
    for left_out in all_well():
        found = judged(*[r for r in all_well() if r.id != left_out.id])
        lost[left_out.id] = {name for name, c in found.items() if c.outcome == "not measured"}
    assert lost["fgsm"] == {ONE} and lost["longer"] == {CONVERGED} and lost["unbounded"] == {UNBOUNDED}
    assert lost["pgd at 2"] == {LARGER} and lost["pgd"] == {LARGER, STRONGER} and lost["square"] == set()
    only = judged(result("fgsm", first(100), "one step"))
    assert {name for name, c in only.items() if c.outcome != "not measured"} == {"clean accuracy is above chance"}


def test_one_step_beats_many():
    assert outcome(ONE, result("fgsm", first(60), "one step"), pgd(100)) == "fail"
    assert outcome(ONE, result("fgsm", first(97), "one step"), pgd(100)) == "undecided"
    assert outcome(ONE, result("fgsm", first(100), "one step"), pgd(60)) == "pass"


def test_black_box_beats_white_box():
    fooled = result("square", first(60), "black box")
    (e,) = judged(pgd(100), fooled)[MANY].evidence
    assert e.outcome == "fail" and e.estimate == pytest.approx(40 / 256)
    assert outcome(MANY, pgd(100), replace(fooled, on="other", source="x")) == "fail"
    assert outcome(MANY, pgd(100), replace(fooled, epsilon=2 * EPSILON)) == "not measured", "in another ball"
    assert outcome(MANY, pgd(100), result("margin", first(60)), fooled) == "pass", "all white boxes together"


def test_fixed_noise_beats_fresh():
    name = "attacks on frozen noise do not beat those on fresh noise"
    assert name not in judged(pgd(100))
    assert outcome(name, pgd(100), result("frozen", first(60), "frozen", on="frozen")) == "fail"


@pytest.mark.parametrize(("n", "outcome_"), [(256, "pass"), (128, "pass"), (124, "undecided"), (64, "undecided")])
def test_a_tie_passes_at_each_presets_sample_size(n, outcome_):
    clean = result("clean", first(n // 2, n), "clean")
    tied = (result("pgd", first(n // 3, n)), result("square", first(n // 3, n), "black box"))
    found = criteria((clean, *tied), epsilon=EPSILON, classes=10, liveness=QUIET)
    assert next(c for c in found if c.name == MANY).outcome == outcome_


def test_a_difference_within_the_tolerance_is_no_failure():
    """On many images, of which one in fifty tells the attacks apart."""
    n = 20_000
    clean = result("clean", first(n, n), "clean")
    close = (result("pgd", first(n // 2, n)), result("square", first(n // 2 - n // 50, n), "black box"))
    found = criteria((clean, *close), epsilon=EPSILON, classes=10, liveness=QUIET)
    (e,) = next(c for c in found if c.name == MANY).evidence
    assert e.interval[0] > 0 and e.estimate < TOLERANCE and e.outcome == "pass"


def test_a_stronger_attack_succeeding_less_is_flagged():
    strong = result("margin", first(140), gradient=40.0)
    assert outcome(STRONGER, pgd(100), strong) == "fail"
    assert outcome(STRONGER, pgd(140), replace(strong, answers=pgd(100).answers)) == "pass"
    assert outcome(STRONGER, pgd(140), result("fgsm", first(100), "one step")) == "fail", "PGD above FGSM"
    assert outcome(STRONGER, pgd(100), replace(strong, attacked=120)) == "not measured", "it had only what stood"
    short = pgd(140, settings={"steps": 2, "step_size": 0.01})
    assert outcome(STRONGER, short, result("fgsm", first(100), "one step")) == "not measured", "it cannot get as far"
    assert not judged(pgd(100), strong)[STRONGER].core


@pytest.mark.parametrize(("left", "said"), [(0, "pass"), (26, "undecided"), (60, "fail")])
def test_an_unbounded_attack(left, said):
    assert outcome(UNBOUNDED, result("unbounded", first(left), "unbounded", epsilon=1.0)) == said


def test_an_attack_that_has_not_converged():
    """On images that stood before; the others are lost already and count as such."""
    longer = result("longer", first(60), "longer", attacked=100)
    assert outcome(CONVERGED, pgd(100), longer) == "fail"
    assert outcome(CONVERGED, pgd(100), result("longer", first(99), "longer", attacked=100)) == "pass"
    few = result("longer", first(20, 64), "longer")
    (e,) = judged(pgd(100), few)[CONVERGED].evidence
    assert e.estimate == pytest.approx(44 / 64), "on the images that both have"


def test_a_larger_ball_that_lowers_attack_success():
    sweep = [
        result(f"pgd at {k}", first(left), "sweep", epsilon=k * EPSILON, points=(Point("epsilon", "PGD-7", k),))
        for k, left in ((0.5, 150), (2, 160))
    ]
    found = judged(pgd(100, points=(Point("epsilon", "PGD-7", 1),)), *sweep)[LARGER]
    assert [e.outcome for e in found.evidence] == ["pass", "fail"], "from each ball to the next"
    one_step = [replace(r, gradient=1.0) for r in sweep]
    assert outcome(LARGER, *one_step) == "not measured", "a single step may go too far"


def test_nothing_to_defend():
    coin = result("clean", first(28), "clean")
    found = criteria((coin, pgd(28)), epsilon=EPSILON, classes=10, liveness=QUIET)
    assert found[0].name == "clean accuracy is above chance" and found[0].outcome == "undecided"
    assert judged(pgd(100))["clean accuracy is above chance"].outcome == "pass"


def test_noise_that_is_not_alive():
    assert "the noise is alive" not in judged(pgd(100))
    assert outcome("the noise is alive", pgd(100), liveness=ALIVE) == "pass"
    dead = judged(pgd(100), liveness=replace(ALIVE, dead=("layer1.0",)))
    assert dead["the noise is alive"].outcome == "fail" and verdict(tuple(dead.values())) == "failed"


def test_a_baseline():
    theirs = [
        replace(CLEAN, id="clean of r", network="r"),
        result("margin of r", first(60), network="r"),
        result("extra", first(0), network="r"),
    ]
    ours = result("margin", first(100), gradient=40.0)
    found = judged(ours, result("square", first(0), "black box"), *theirs, baseline="r")["it is more robust than r"]
    assert found.outcome == "pass" and not found.core
    assert found.evidence[0].estimate == pytest.approx(-40 / 256), "over the attacks that both have met"
    assert (
        outcome("it is more robust than r", replace(ours, answers=theirs[2].answers), *theirs, baseline="r") == "fail"
    )
    assert outcome("it is more robust than r", pgd(100), theirs[0], baseline="r") == "not measured"
    assert gain(Found((CLEAN, pgd(100)), EPSILON), Found(theirs, EPSILON, "r"), "r") is None


# The worst case


def test_an_images_worst_case_is_its_worst_attack():
    n = 6
    a, b = np.arange(n) < 4, np.arange(n) > 1
    found = Found((result("clean", first(5, n), "clean"), result("a", a), result("b", b)), EPSILON)
    assert found.worst(found.within())[:, 0].tolist() == [False, False, True, True, False, False]
    assert found.worst([]) is None


def test_an_image_lost_to_one_attack_stays_lost():
    """A cascade leaves out what is lost, and counts it as wrong."""
    pgd_, standing = pgd(100), result("square", first(60), "black box", attacked=100)
    found = Found((CLEAN, pgd_, standing), EPSILON)
    assert found.worst([pgd_, standing]).mean() == 60 / 256
    assert found.best_single().id == "pgd", "the other was not run on all images"


def test_images_an_attack_skipped_do_not_count():
    few = result("few", np.zeros(32, bool))
    found = Found((CLEAN, few), EPSILON)
    worst = found.worst([few])[:, 0]
    assert not worst[:32].any() and worst[32:240].all()


def test_the_worst_of_similar_attacks_is_not_biased():
    """Eight attacks that each leave a chance of a half: by the draws that choose, the least seems to leave less."""
    n, chances = 4000, np.full(4000, 0.5)
    alike = [result(str(i), drawn(chances, 20, seed=i)) for i in range(8)]
    clean = result("clean", np.ones((n, 20), bool), "clean")
    found = Found((clean, *alike), EPSILON)
    worst = found.worst(alike)
    assert worst.shape == (n, 20)
    assert abs(worst.mean() - 0.5) < 4 * 0.5 / (20 * n) ** 0.5
    naive = worst_of(np.stack([r.right.mean(1) for r in alike]), [r.right for r in alike])
    assert naive.mean() < 0.4, "as it would be"


def test_the_worst_case_never_exceeds_the_strongest_attack():
    """A tie on the draws that choose says nothing for the clean image, which is weaker on all images together."""
    attack = result("pgd", drawn(np.full(4000, 0.9), 20))
    found = Found((result("clean", np.ones((4000, 20), bool), "clean"), attack), EPSILON)
    assert found.worst([attack]).mean() == pytest.approx(attack.accuracy, abs=0.005)


def test_the_worst_case_is_found_where_attacks_differ():
    n = 2000
    chances = np.array([np.where(np.arange(n) % 4 == k, 0.1, 0.9) for k in range(4)])
    attacks = [result(str(i), drawn(c, 20, seed=i)) for i, c in enumerate(chances)]
    found = Found((result("clean", np.ones((n, 20), bool), "clean"), *attacks), EPSILON)
    assert found.worst(attacks).mean() == pytest.approx(0.1, abs=0.01)


def test_the_strongest_attack_uses_all_images_within_epsilon():
    other = [
        result("half", first(0, 128)),
        result("wide", first(0), epsilon=2 * EPSILON),
        result("l2", first(0), norm="l2"),
        result("known", first(0), on="known"),
        result("theirs", first(0), network="r"),
        replace(result("twin", first(0)), noise="on"),
    ]
    found = Found((CLEAN, pgd(100), *other), EPSILON)
    assert found.best_single().id == "pgd"
    assert Found((CLEAN,), EPSILON).best_single() is None


def test_a_difference_uses_only_the_common_images():
    figure = difference(first(100), first(20, 64), shared=False)
    assert figure.value == pytest.approx(44 / 64) and figure.interval[0] < figure.value < figure.interval[1]


def test_a_transferred_attack_is_named_after_its_source():
    assert called(pgd(1)) == "pgd"
    assert called(pgd(1, on="twin", role="black box")) == "pgd (noise off)"
    assert called(pgd(1, on="other", source="a.safetensors")) == "pgd (a.safetensors)"
