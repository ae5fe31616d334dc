"""Recipes: every mistake is named, and every built-in is right."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest

from perturbify import recipe
from perturbify.errors import RecipeError
from perturbify.settings import (
    RULES,
    AttackSettings,
    CheckSettings,
    DataSettings,
    OptimizerSettings,
    Recipe,
    TrainSettings,
)
from perturbify.surgery.config import PerturbConfig

SECTIONS = {name: kind for name, kind in get_type_hints(Recipe).items() if is_dataclass(kind)}

LEAST = """
model = "resnet18"
[data]
name = "digits"
[train]
epochs = 3
batch_size = 8
warmup_epochs = 1
[optimizer]
lr = 0.1
[theta_optimizer]
lr = 0.2
"""


def mistakes_of(*overrides: str, tmp_path: Path, base: str = LEAST) -> list[str]:
    """The mistakes that a recipe, else right and as small as can be, has after the overrides."""
    path = tmp_path / "mine.toml"
    path.write_text(base, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, overrides)
    head, *mistakes = str(caught.value).splitlines()
    count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    assert head == f"Recipe 'mine' has {count}:"
    return [mistake.strip() for mistake in mistakes]


# Out of all proportion

HUGE = {
    "nested lists": "a=" + "[" * 20_000 + "]" * 20_000,
    "nested tables": "a=" + "{a=" * 10_000,
    "a dotted key": ".".join("a" * 25_000) + "=1",
    "a dotted header": "[" + ".".join("a" * 20_000) + "]",
    "a deep argument": f"model_args = {{a = {'[' * 100}{']' * 100}}}{LEAST}",
    "a long text": LEAST.replace("digits", "d" * 20_000),
    "a long key": f"{LEAST}{'k' * 40_000} = 1",
    "a long integer": f"seed = {'9' * 5000}{LEAST}",
    "a long hexadecimal": f"seed = 0x{'f' * 40_000}{LEAST}",
    "many mistakes": "\n".join(f"epoch{i} = 1" for i in range(3500)),
    "many milestones": LEAST.replace("lr = 0.1", f"lr = 0.1\nmilestones = [{', '.join(['7'] * 12_000)}]"),
    "a million milestones": f"{LEAST}milestones = [{', '.join(['7'] * 10**6)}]",
    "a long fraction": f'{LEAST}[attack]\nepsilon = "1/{"9" * 9000}"',
    "a long ratio": f'{LEAST}[perturb]\ntheta_init = "{"1" * 9000}x"',
    "a date": LEAST.replace("0.1", "2020-01-01"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_an_absurdly_large_recipe_is_refused_quickly(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(HUGE[kind], encoding="utf-8")
    for read in (lambda: recipe.load(tmp_path / "mine.toml"), lambda: recipe.from_toml(HUGE[kind], "mine")):
        started = time.perf_counter()
        with pytest.raises(RecipeError) as caught:
            read()
        assert time.perf_counter() - started < 2
        assert len(str(caught.value)) < 50_000


def test_a_file_of_any_length_costs_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "mine.toml").open("wb") as file:
        file.truncate(2**40)  # a hole of a terabyte
    with pytest.raises(RecipeError, match=r"has more than 50,000 bytes or 2,000 dots"):
        recipe.load(tmp_path / "mine.toml")


def test_a_long_recipe_can_be_read_back() -> None:
    globs = ", ".join(f'"l{i}.c"' for i in range(1900))
    read = recipe.from_toml(f"{LEAST}[perturb]\ninclude=[{globs}]", "long")
    assert recipe.from_toml(recipe.to_toml(read), "long") == read


@pytest.mark.parametrize("name", ["a" * 300, "", "\0", "\udcff", "/dev/zero", "."])
def test_names_of_missing_recipes(name: str) -> None:
    with pytest.raises(RecipeError, match="There is no recipe"):
        recipe.load(name)


# Reading


def test_missing_keys_get_their_defaults() -> None:
    read = recipe.from_toml(LEAST, "least")
    assert read == Recipe(
        name="least",
        model="resnet18",
        method="learn2perturb",
        data=DataSettings("digits"),
        train=TrainSettings(epochs=3, batch_size=8, warmup_epochs=1),
        optimizer=OptimizerSettings(lr=0.1),
        theta_optimizer=OptimizerSettings(lr=0.2),
    )
    assert read.perturb == PerturbConfig()
    assert read.attack == AttackSettings()
    assert read.check == CheckSettings()


def test_integers_are_numbers_and_fractions_are_pixel_sizes() -> None:
    read = recipe.from_toml(
        LEAST.replace("lr = 0.1", "lr = 1") + '[attack]\nepsilon = "8/255"\nstep_size = 1\n[check]\nepsilon = "4/255"',
        "x",
    )
    assert (read.optimizer.lr, type(read.optimizer.lr)) == (1.0, float)
    assert read.attack.epsilon == 8 / 255
    assert type(read.attack.step_size) is float
    assert read.check.epsilon == 4 / 255


def test_import_is_light() -> None:
    code = "import sys, perturbify.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        # types
        ("train.epochs=true", "train.epochs must be an integer, not true"),
        ("train.epochs=2.0", "train.epochs must be an integer, not 2.0"),
        ("train.epochs=two", 'train.epochs must be an integer, not "two"'),
        ("data.flip=1", "data.flip must be true or false, not 1"),
        ("data.name=3", "data.name must be a string, not 3"),
        ("data.root=false", "data.root must be a string, not false"),
        ("optimizer.lr=true", "optimizer.lr must be a number, not true"),
        ('optimizer.lr="1/10"', 'optimizer.lr must be a number, not "1/10"'),
        (f"optimizer.lr=1{'0' * 400}", "optimizer.lr is an integer of more than 64 bits, which TOML does not have"),
        ("attack.epsilon=8/0", 'attack.epsilon must be a number or a fraction such as "8/255", not "8/0"'),
        ("attack.epsilon=a/b", 'attack.epsilon must be a number or a fraction such as "8/255", not "a/b"'),
        ("perturb.include=conv1", 'perturb.include must be a list, not "conv1"'),
        ("perturb.include=[1]", "perturb.include[0] must be a string, not 1"),
        ("optimizer.milestones=[1, 2.5]", "optimizer.milestones[1] must be an integer, not 2.5"),
        ("model_args=3", "model_args must be a table, not 3"),
        ("model_args.since=2020-01-01", "model_args holds a date, which a recipe cannot hold"),
        ("check=3", "check must be a table, not 3"),
        ("seed.deeper=3", 'seed must be an integer, not {"deeper": 3}'),
        # ranges
        ("train.epochs=0", "train.epochs must be at least 1, not 0"),
        ("train.batch_size=0", "train.batch_size must be at least 1, not 0"),
        ("train.warmup_epochs=-1", "train.warmup_epochs must be at least 0, not -1"),
        ("train.w_steps=0", "train.w_steps must be at least 1, not 0"),
        ("train.theta_steps=0", "train.theta_steps must be at least 1, not 0"),
        ("train.gamma=-1e-4", "train.gamma must be at least 0, not -0.0001"),
        ("train.save_minutes=0", "train.save_minutes must be above 0, not 0"),
        ("optimizer.lr=-0.1", "optimizer.lr must be at least 0, not -0.1"),
        ("optimizer.lr=nan", "optimizer.lr must be at least 0, not NaN"),
        ("optimizer.lr=inf", "optimizer.lr must be at least 0, not Infinity"),
        ("theta_optimizer.momentum=1", "theta_optimizer.momentum must be at least 0 and below 1, not 1"),
        ("theta_optimizer.decay=0", "theta_optimizer.decay must be above 0 and at most 1, not 0"),
        ("optimizer.milestones=[2, 1]", "optimizer.milestones must increase, unlike [2, 1]"),
        ("optimizer.milestones=[2, 2]", "optimizer.milestones must increase, unlike [2, 2]"),
        ("attack.epsilon=0", "attack.epsilon must be above 0 and at most 1, not 0"),
        ("attack.epsilon=8", "attack.epsilon must be above 0 and at most 1, not 8"),
        ("attack.epsilon=300/255", 'attack.epsilon must be above 0 and at most 1, not "300/255"'),
        ("attack.steps=0", "attack.steps must be at least 1, not 0"),
        ("attack.weight=1.5", "attack.weight must be at least 0 and at most 1, not 1.5"),
        ("check.images=0", "check.images must be at least 1, not 0"),
        ("check.eot_draws=0", "check.eot_draws must be at least 1, not 0"),
        ("train.epochs=1_000_000_000_000_000_000", "train.epochs must be at most 1,000,000, not 1000000000000000000"),
        ("data.image_size=1000000000", "data.image_size must be at most 10,000, not 1000000000"),
        ("train.batch_size=1000000000000", "train.batch_size must be at most 1,000,000,000, not 1000000000000"),
        ("attack.epsilon=1e999999999", "attack.epsilon must be above 0 and at most 1, not Infinity"),
        (
            "attack.epsilon=1e999999999/1",
            'attack.epsilon must be a number or a fraction such as "8/255", not "1e999999999/1"',
        ),
        ("optimizer.lr=1e308", "optimizer.lr must be at most 1,000,000, not 1e+308"),
        ("data.crop_padding=9999", "data.crop_padding must be at most 256, not 9999"),
        ("model_args.weights=x", "model_args.weights does not belong in a recipe: use --weights FILE"),
        ("seed=-1", "seed must be at least 0 and at most 4294967295, not -1"),
        ("perturb.theta_min=0", "perturb.theta_min must be above 0, not 0"),
        # choices
        (
            "method=vanila",
            "method is unknown: There is no method 'vanila'. Did you mean 'vanilla'?",
        ),
        ("perturb.draw_per=7", 'perturb.draw_per must be one of "sample", "batch", not 7'),
        # two keys against each other
        ("train.warmup_epochs=4", "train.warmup_epochs must be at most epochs (4 and 3)"),
        ("data.mean=[0.5]", "data.mean and std must be given together, one number per channel ([0.5] and null)"),
        ("data.std=[0.5]", "data.mean and std must be given together, one number per channel (null and [0.5])"),
        ("optimizer.momentum=0", "optimizer.nesterov needs a momentum above 0 (true and 0.0)"),
        ("perturb.theta_init=0.001", "perturb.theta_init must be at least theta_min (0.001 and 0.01)"),
        # names
        ("train.epoch=3", "train.epoch is unknown. Did you mean 'epochs' or 'warmup_epochs'?"),
        ("trian.epochs=3", "trian is unknown. Did you mean 'train'?"),
        ("train.lr=3", "train.lr is unknown. Did you mean 'optimizer.lr' or 'theta_optimizer.lr'?"),
        ("epochs=3", "epochs is unknown. Did you mean 'train.epochs'?"),
        ("name=other", "name is unknown. Did you mean 'data.name'?"),
        ("data.qqq=3", "data.qqq is unknown"),
        # absence
        ("data.name=", "data.name is missing"),
        ("model=", "model is missing"),
        ("train.epochs", "train.epochs is an override without a value; write key=value"),
    ],
)
def test_each_mistake(override: str, mistake: str, tmp_path: Path) -> None:
    assert mistakes_of(override, tmp_path=tmp_path) == [mistake]


def test_mean_and_std_need_equal_nonzero_lengths(tmp_path: Path) -> None:
    for mean, std in (("[0.5]", "[0.5, 0.5]"), ("[]", "[]")):
        (mistake,) = mistakes_of(f"data.mean={mean}", f"data.std={std}", tmp_path=tmp_path)
        assert mistake.startswith("data.mean and std must be given together")


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    base = """
    seeds = 1
    method = "learn2perturb-x"
    [train]
    epochs = 0
    batch_size = "8"
    gama = 1
    [optimizer]
    lr = -1
    milestones = [3, true, -2]
    """
    found = mistakes_of("foo", "attack.epsilon=2", base=base, tmp_path=tmp_path)
    assert [mistake.split()[0] for mistake in found] == [
        "foo",
        "seeds",
        "model",
        "data.name",
        "train.gama",
        "train.epochs",
        "train.batch_size",
        "optimizer.lr",
        "optimizer.milestones[1]",
        "optimizer.milestones[2]",
        "attack.epsilon",
        "method",
    ]


def test_invalid_toml_names_the_line() -> None:
    with pytest.raises(RecipeError, match=r"'x' is not valid TOML: .*line 2"):
        recipe.from_toml('model = "a"\nseed = = 3\n', "x")


def test_a_huge_integer_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="not valid TOML"):
        recipe.from_toml(f"seed = {'9' * 5000}", "x")


# Finding


def test_an_unknown_recipe_suggests_names_and_paths() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'cifra10'. Did you mean 'cifar10' .*path to a \.toml"):
        recipe.load("cifra10")
    with pytest.raises(RecipeError, match=r"Built in: cifar10, cifar100, cifar10_adv_bnn, .*, digits, smoke\. A path"):
        recipe.load("zzz")
    with pytest.raises(RecipeError, match=r"Did you mean 'digits'"):
        recipe.load("somewhere/digit.toml")


def test_a_path_is_read_and_names_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LEAST, encoding="utf-8")
    assert recipe.load(path) == recipe.load(str(path)) == recipe.from_toml(LEAST, "mine")
    assert recipe.text(path) == LEAST


def test_a_binary_file_is_a_recipe_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load(path)


# Overrides


def test_overrides_use_toml_types_or_plain_strings() -> None:
    read = recipe.load(
        "digits",
        [
            "train.epochs=5",
            "optimizer.lr = 1e-3",
            "optimizer.milestones=[2, 4]",
            "data.root=/some/where=else",
            "data.flip=true",
            "attack.epsilon=4/255",
            'perturb.include=["layer1*"]',
            "model_args.width=1.5",
            "model_args.deep.er=1",
            "method=none",
            "seed=1",
            "seed=2",
        ],
    )
    assert read.train.epochs == 5
    assert (read.optimizer.lr, read.optimizer.milestones) == (1e-3, (2, 4))
    assert (read.data.root, read.data.flip) == ("/some/where=else", True)
    assert read.attack.epsilon == 4 / 255
    assert read.perturb.include == ("layer1*",)
    assert read.model_args == {"width": 1.5, "deep": {"er": 1}}
    assert (read.method, read.seed) == ("none", 2)


def test_an_override_cannot_smuggle_in_a_second_key() -> None:
    with pytest.raises(RecipeError, match="seed must be an integer"):
        recipe.load("digits", ["seed=1\nmethod='none'"])


def test_overrides_as_a_mapping() -> None:
    read = recipe.load("smoke", {"train.epochs": 4, "data.train_images": None, "optimizer.milestones": (1, 2)})
    assert read.train.epochs == 4
    assert read.data.train_images is None
    assert read.optimizer.milestones == (1, 2)


def test_an_empty_override_removes_the_key() -> None:
    read = recipe.load("cifar10", ["data.mean=", "data.std="])
    assert (read.data.mean, read.data.std) == (None, None)


# The built-in recipes


@pytest.mark.parametrize("name", recipe.names())
def test_every_built_in_is_valid_with_its_source(name: str) -> None:
    read = recipe.load(name)
    assert read.name == name
    assert recipe.from_toml(recipe.to_toml(read), name) == read
    head = recipe.text(name).split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for said in ("Source:", f"Command: perturbify finetune --recipe {name}", "Figures:"):
        assert said in head


def test_the_built_ins() -> None:
    others = ("adv_bnn", "learn2perturb_r", "none", "pixeldp", "pni", "release", "rse", "vanilla")
    assert set(recipe.names()) == {"cifar10", "cifar100", "cifar10_short", "digits", "smoke"} | {
        f"cifar10_{method}" for method in others
    }


def test_cifar10_has_the_constants_of_the_paper() -> None:
    """docs/constants.md."""
    sgd = OptimizerSettings(lr=0.1, momentum=0.9, nesterov=True, milestones=(150, 250), decay=0.1)
    assert recipe.load("cifar10") == Recipe(
        name="cifar10",
        model="cifar_resnet20",
        method="learn2perturb",
        data=DataSettings(
            "cifar10",
            crop_padding=4,
            flip=True,
        ),
        perturb=PerturbConfig(grain="element", draw_per="sample", theta_init=0.25, theta_min=0.01),
        train=TrainSettings(epochs=350, batch_size=128, warmup_epochs=20, joint=True, gamma=1e-4),
        optimizer=replace(sgd, weight_decay=3e-4),
        theta_optimizer=replace(sgd, weight_decay=0.0),
        attack=AttackSettings(epsilon=8 / 255, step_size=0.01, steps=7, random_start=True, weight=0.5),
        check=CheckSettings(images=256, epsilon=8 / 255, step_size=0.01, steps=7, eot_draws=10),
    )


def test_the_release_recipe_differs_only_as_documented() -> None:
    ours, paper = recipe.load("cifar10_release"), recipe.load("cifar10")
    assert ours == replace(
        paper,
        name="cifar10_release",
        model_args={"padding": "end"},
        perturb=replace(paper.perturb, site="addition", draw_per="batch"),
        train=replace(paper.train, warmup_epochs=10),
        attack=replace(paper.attack, from_epoch=20, labels="predicted"),
    )


def test_an_earlier_versions_run_keeps_its_settings() -> None:
    written = recipe.to_toml(recipe.load("cifar10_short", {"train.joint": False}))
    later = ("theta_schedule", "tau_from", "gamma_form", "labels")
    old = "".join(line for line in written.splitlines(keepends=True) if not line.startswith(later))
    assert old != written
    assert recipe.from_toml(old, "mine").train.theta_schedule == "scaled"
    read = recipe.of_run(old, "run")
    assert (read.train.theta_schedule, read.train.joint) == ("plain", False)
    assert recipe.of_run(written, "run").train.theta_schedule == "scaled"


def test_cifar100_differs_from_cifar10_in_the_dataset_alone() -> None:
    ours, paper = recipe.load("cifar100"), recipe.load("cifar10")
    assert ours.data == replace(paper.data, name="cifar100", mean=None, std=None)
    assert replace(ours, name=paper.name, data=paper.data) == paper


# The rules


def test_every_number_has_a_range_rule() -> None:
    for cls in (Recipe, *SECTIONS.values()):
        kinds = get_type_hints(cls)
        said = {f.name: str(kinds[f.name]) for f in fields(cls) if "Literal" not in str(kinds[f.name])}
        numbers = {name for name, kind in said.items() if "int" in kind or "float" in kind}
        assert set(RULES[cls].ranges) == numbers
        assert {key for pair in RULES[cls].pairs for key in (pair.key, pair.other)} <= set(kinds)


@pytest.mark.parametrize("backend", ["auto", "hook"])
def test_a_recipe_of_an_earlier_version_is_read(backend: str) -> None:
    text = f'{LEAST}[perturb]\nbackend = "{backend}"\nshare = "batch"\nshared = "module"\n'
    changed = replace(recipe.from_toml(LEAST, "new").perturb, draw_per="batch", theta_per="module")
    assert recipe.of_run(text, "old").perturb == changed
    with pytest.raises(RecipeError, match=r"perturb\.share is unknown"):
        recipe.from_toml(text, "mine")
