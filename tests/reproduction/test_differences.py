"""Where a reproduction departs, from whom, and that it is computed from the recipe that ran."""

from dataclasses import replace

import pytest

from perturbify import data as datasets
from perturbify.reproduction import Reproduction, jobs
from perturbify.reproduction.differences import ALGORITHM, PAPER, RELEASE, differences

PNI = "recipe cifar10_pni, after Parametric Noise Injection, CVPR 2019"


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def found(asked, data, theta=None, **train):
    (job,) = jobs(asked)
    job = replace(job, recipe=replace(job.recipe, train=replace(job.recipe.train, **train)))
    return {(d.what, d.whose): (d.here, d.theirs) for d in differences(asked, job, data, theta=theta)}


def asked(method, table="table1", **wishes):
    return Reproduction(table, networks=("cifar_resnet20",), methods=(method,), **wishes)


def test_a_short_run_reports_its_changed_schedule(digits):
    said = found(asked("learn2perturb", epochs=7), digits, joint=False)
    assert said["epochs", RELEASE] == ("7", "350")
    assert said["epochs of warm-up, noise off", PAPER] == ("0", "20")
    assert said["epochs of warm-up, noise off", RELEASE] == ("0", "10")
    # 1,442 images are 12 batches an epoch, and all 84 are noisy.
    assert said["W-steps", ALGORITHM] == ("42", "136,850")
    assert said["θ-steps", ALGORITHM] == ("42", "129,030")
    assert said["W-steps in so many batches", PAPER] == ("42 of 84", "84 of 84")
    assert said["updates of W and θ", PAPER][0] == "alternating, 1 W-step and 1 θ-step"


def test_joint_steps_match_the_paper(digits):
    said = found(asked("learn2perturb"), digits, joint=True)
    assert {("updates of W and θ", PAPER), ("W-steps in so many batches", PAPER), ("epochs", RELEASE)}.isdisjoint(said)


def test_epochs_and_optimisers_come_from_the_release(digits):
    for method in ("none", "vanilla", "learn2perturb-r", "learn2perturb"):
        said = found(asked(method, epochs=3, equal_schedule="smoke"), digits, batch_size=64, gamma=0.5)
        whats = {what for what, whose in said if whose == PAPER}
        released = {"epochs", "batch size", "optimiser of W", "optimiser of θ", "γ, the penalty's weight"}
        assert whats.isdisjoint(released)
        assert ("epochs", RELEASE) in said
    assert said["γ, the penalty's weight", RELEASE] == ("0.5", "0.0001")


def test_another_method_has_its_own_differences(digits):
    said = found(asked("pni", table="table2", epochs=3), digits)
    assert said["epochs", PNI] == ("3", "160")
    assert not {what for what, _ in said} & {"epochs of warm-up, noise off", "updates of W and θ", "noise"}


def test_the_site_and_sharing_of_noise_are_reported(digits):
    wanted = asked("learn2perturb")
    (job,) = jobs(wanted)

    def said(**perturb):
        there = replace(job, recipe=replace(job.recipe, perturb=replace(job.recipe.perturb, **perturb)))
        return {(d.what, d.whose): d.here for d in differences(wanted, there, digits)}

    own = said()
    assert ("noise", PAPER) not in own
    assert own["noise", RELEASE] == "behind every convolution"
    assert own["a draw of noise for each", RELEASE] == "image"
    release = said(site="addition", draw_per="batch")
    assert ("noise", RELEASE) not in release
    assert release["noise", PAPER].startswith("on residual additions")
    assert release["a draw of noise for each", PAPER] == "batch"
    assert said(theta_init=0.5, grain="layer")["θ at the start", RELEASE] == "0.5"
    assert said(grain="layer")["one θ for each", PAPER] == "layer"


def test_the_change_in_theta_is_reported(digits):
    here, theirs = found(asked("learn2perturb", epochs=7), digits, theta=0.2541)["θ at the end", ALGORITHM]
    assert here.startswith("0.254 on average after ") and "as far as epoch 21 of 350" in here
    assert theirs == "1.06, by the regulariser alone"


def test_the_papers_datasets_count_as_no_difference(digits):
    for name, called in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        said = found(asked("vanilla"), replace(digits, name=name))
        assert said["training images", PAPER] == (f"{called}, 1,442", f"{called}, 50,000")


def test_the_number_of_training_runs_is_reported(digits):
    wanted = asked("none", seeds=(0, 4))
    job, _ = jobs(wanted)
    said = {d.what: d.here for d in differences(wanted, job, digits)}
    assert said["training runs"] == "2, with the seeds 0, 4"


@pytest.mark.parametrize(("labels", "whose"), [("true", RELEASE), ("predicted", PAPER)])
def test_the_adversarys_choice_of_labels_is_reported(labels, whose, digits):
    wanted = asked("learn2perturb")
    (job,) = jobs(wanted)
    job = replace(job, recipe=replace(job.recipe, attack=replace(job.recipe.attack, labels=labels)))
    said = [d.whose for d in differences(wanted, job, digits) if d.what == "label that PGD is against"]
    assert said == [whose]


def test_thetas_schedule_and_gammas_form_are_reported(digits):
    plain = found(asked("learn2perturb"), digits, theta_schedule="plain", gamma_form="literal", tau_from="start")
    assert ("θ's learning rate", RELEASE) not in plain
    assert ("γ∇g", PAPER) not in plain
    assert ("γ∇g", RELEASE) in plain
    assert plain["τ counts epochs from the first", PAPER] == ("of all", "with noise")
    scaled = found(asked("learn2perturb"), digits, theta_schedule="scaled", gamma_form="optimizer", tau_from="noise")
    assert ("θ's learning rate", RELEASE) in scaled
    assert ("γ∇g", PAPER) in scaled
    assert ("γ∇g", RELEASE) not in scaled
    assert ("τ counts epochs from the first", PAPER) not in scaled
