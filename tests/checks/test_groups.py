"""Which networks are runs of one recipe, by what their files say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import perturbify
from perturbify import recipe
from perturbify.checkpoint import read_header
from perturbify.checks.groups import Trained, check_same_data, trained
from perturbify.errors import CheckError

SMOKE = recipe.load("smoke")


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """The header of a small network, as training with a recipe would have written it."""
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    model = perturbify.wrap(nn.Sequential(nn.Conv2d(3, 4, 3)), example_input=torch.rand(2, 3, 8, 8))
    perturbify.save(model, path, recipe=recipe.to_toml(SMOKE), classes=["a", "b"])
    plain = read_header(path)

    def header(seed=0, changes=None, **others):
        changed = recipe.load("smoke", {"seed": seed, **(changes or {})})
        return replace(plain, **{"recipe": recipe.to_toml(changed)} | others)

    return header


def groups(headers, families=None, files=None):
    files = files or {}
    return trained(headers, {n: Path(files.get(n, "model.safetensors")) for n in headers}, families or {})


def test_runs_that_differ_only_in_seed_form_groups(header):
    found = groups({"l2p-seed-0": header(0), "other": header(0, {"optimizer.lr": 0.2}), "l2p-seed-7": header(7)})
    assert found == {"l2p-seed-0": Trained("l2p", 0), "l2p-seed-7": Trained("l2p", 7), "other": Trained("other", 0)}


def test_a_folder_of_runs_names_its_group(header):
    headers = {"mine-seed-0": header(0), "mine-seed-1": header(1)}
    assert groups(headers, dict.fromkeys(headers, "my runs"))["mine-seed-1"] == Trained("my runs", 1)


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (("seed-0", "seed-1"), "learn2perturb"),
        (("a", "b"), "learn2perturb"),
        (("net1", "net2"), "net"),
        (("l2p-2-seed-10", "l2p-2-seed-11"), "l2p-2"),
    ],
)
def test_a_group_takes_its_runs_common_prefix(names, group, header):
    assert {t.group for t in groups({name: header(i) for i, name in enumerate(names)}).values()} == {group}


def test_a_group_never_takes_another_networks_name(header):
    headers = {"net": header(0, recipe=None), "net1": header(0), "net2": header(1)}
    assert groups(headers) == {"net1": Trained("net-2", 0), "net2": Trained("net-2", 1)}, "net is no run"


def test_different_initial_weights_make_different_groups(header):
    other = {"name": "perturbify:cifar_resnet20", "kwargs": {}, "weights": "file:a.safetensors (sha256 0…)"}
    found = groups({"a": header(0), "b": header(1, model=other), "c": header(0), "d": header(1)})
    assert [found[name].group for name in "abcd"] == ["learn2perturb", "b", "c", "learn2perturb"]


def test_a_runs_best_checkpoint_is_not_another_run(header):
    found = groups({"a": header(0), "b": header(1)}, files={"b": "run/best.safetensors"})
    assert {t.group for t in found.values()} == {"a", "b"}


def test_other_data_are_refused(header):
    check_same_data({"a": header(0), "b": header(1), "c": header(recipe=None, classes=None)})
    check_same_data({"a": header(0, {"data.name": "x/mine.npz"}), "b": header(0, {"data.name": "mine.npz"})})
    with pytest.raises(CheckError, match=r"^b was trained on cifar10, but a on digits\.") as caught:
        check_same_data({"a": header(0), "b": header(0, {"data.name": "cifar10"})})
    assert "one dataset at a time" in caught.value.hint
    with pytest.raises(CheckError, match="b and a have different classes: 3 instead of 2"):
        check_same_data({"a": header(0), "b": header(0, classes=["a", "b", "c"])})
    with pytest.raises(CheckError, match="b and a have different classes: class 1 is 'c' in one and 'b' in the other"):
        check_same_data({"a": header(0), "b": header(0, classes=["a", "c"])})


def test_a_run_without_theta_schedule_is_grouped_apart(header):
    """It had no schedule of θ, and was trained without one: what its recipe does not say is not today's default."""
    before = recipe.to_toml(SMOKE).replace('theta_schedule = "scaled"\n', "")
    headers = {"a": header(recipe=before), "b": header(1), "c": header(2)}
    assert {name: t.group for name, t in groups(headers).items()} == {
        "a": "a",
        "b": "learn2perturb",
        "c": "learn2perturb",
    }
    plain = header(1, {"train.theta_schedule": "plain"})
    assert {t.group for t in groups({"a": header(recipe=before), "b": plain}).values()} == {"learn2perturb"}
