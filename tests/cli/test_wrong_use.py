"""Command lines that nobody should type, and files that run code: one sentence each, and nothing done."""

import json
import sys
import time
from pathlib import Path

import pytest

from perturbify import data, reproduction
from perturbify.reproduction.run import network

LONG = "a" * 300
LONGER = "9" * 100_000

NO_COUNTS = ["", "1e30", "-1", "0", "1.5", "nan", "１", "1_0", "9" * 20, LONGER, "all"]
NO_PIXELS = ["", "1e999999999", "1e400/1e400", "1/0", "nan", "inf", "-1", "0", "2", "1_0/255", "８/255", "8/", LONGER]
NO_RADII = ["", ",", "1e999999999", "nan", "-1", "1,nan", "1," * 1000 + "1", LONGER]
NO_SIZES = [
    "3x99999999x99999999",
    "3x9999x9999",
    "0x8x8",
    "3x8",
    "1x1x1x1x1",
    "３x8x8",
    "3x8x8\n",
    LONGER,
    "x" * 50_000,
]
NO_STARTS = [
    "nan",
    "inf",
    "1e999",
    "-1",
    "1_0",
    "１",
    "x",
    "0x",
    "-1x",
    "1e999999999x",
    "1e-999999999x",
    "1" * 100_000 + "x",
]

CHECK = ("check", "cifar_resnet20", "--data", "digits")
CERTIFY = ("certify", "model.safetensors", "--data", "digits")
CONVERT = ("convert", "cifar_resnet20")
WRONG = [
    *((*CHECK, option, value) for option in ("--images", "--steps", "--draws", "--batch-size") for value in NO_COUNTS),
    *((*CHECK, option, "1e30") for option in ("--eot-draws", "--long-steps", "--few", "--image-size")),
    *((*command, "--seed", value) for command in (CHECK, CERTIFY, CONVERT) for value in (str(2**80), "-1", LONGER)),
    *((*CHECK, option, value) for option in ("--epsilon", "--step-size") for value in NO_PIXELS),
    *((*CERTIFY, "--radii", value) for value in NO_RADII),
    *((*CERTIFY, "--confidence", value) for value in ("nan", "inf", "0", "1", "-1", "1_0", "", LONGER)),
    *((*CONVERT, "--input-size", value) for value in NO_SIZES),
    *((*CONVERT, option, value) for option in ("--theta-init", "--theta-min") for value in NO_STARTS),
    *((*CONVERT, "--num-classes", value) for value in ("0", "1e3", "9" * 20)),
    *((*CONVERT, "--model-arg", value) for value in ("a", "=", "=1", "pretrained=true", "weights=x", "reset_head=1")),
]
NAMES = [LONG, "no/such/folder/" * 500, "a\nb", "\udcff", "~nobody/x"]


@pytest.mark.parametrize(
    "arguments", WRONG, ids=lambda a: " ".join(a)[:80].encode("ascii", "backslashreplace").decode()
)
def test_arguments_that_are_not_numbers(arguments, refused):
    started = time.perf_counter()
    said = refused(*arguments, status=2)
    assert time.perf_counter() - started < 10
    assert len(said) < 5000


@pytest.mark.parametrize("device", ["meta", "cpu:7", "cuda:99", "nonsense", "xla", "lazy", "opengl", LONG])
def test_unavailable_devices(device, refused):
    assert f"There is no device {device!r} here" in refused(*CHECK, "--device", device)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_missing_files(name, refused):
    assert "no model" in refused("convert", name)
    assert "no model" in refused("check", name)
    assert "no model" in refused("check", name, "--data", "digits", "--images", "2")
    assert "no weights file" in refused(*CONVERT, "--weights", name)
    assert "no recipe" in refused("recipes", "show", name, status=2)
    assert "no recipe" in refused("recipes", "validate", name, status=2)
    assert "no recipe" in refused("finetune", "--recipe", name, status=2)
    assert "no model" in refused("finetune", "--recipe", "smoke", "--model", name)


def test_a_recipe_copy_with_a_name_too_long(refused):
    assert "cannot be written: File name too long" in refused("recipes", "cp", "smoke", LONG)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("width=100000000", "with width=100000000 is too large: the maximum is 30,000"),
        ("num_classes=1000000000000", "is too large: the maximum is 10,000,000"),
        ("width=20000", "GB are available"),
        ("a=" + "[" * 100_000, "has no argument 'a'"),
        ("a=NaN", "cannot be written into a checkpoint"),
    ],
)
def test_networks_too_large_for_any_machine(argument, said, refused):
    assert said in refused(*CONVERT, "--model-arg", argument)


# A recipe that runs code

MODULE = """
from pathlib import Path
from torch import nn

Path("imported").touch()


def build(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
"""
RECIPE = """
model = "theirs:build"
model_args = {width = 3}
[data]
name = "digits"
train_images = 100
[train]
epochs = 1
batch_size = 50
[optimizer]
lr = 0.01
[attack]
steps = 1
[check]
images = 8
steps = 1
"""


@pytest.fixture
def theirs(folder):
    """A recipe that names a function of its writer's; the file that importing its module leaves."""
    (folder / "theirs.py").write_text(MODULE, encoding="utf-8")
    (folder / "mine.toml").write_text(RECIPE, encoding="utf-8")
    sys.modules.pop("theirs", None)
    yield folder / "imported"
    sys.modules.pop("theirs", None)


TRAIN = ("finetune", "--recipe", "mine.toml", "-o", "run", "-q", "--no-check")


def test_a_recipes_function_is_never_called_or_imported(theirs, refused):
    for more in ((), ("--model-arg", "width=5"), ("--set", "seed=1"), ("--set", "model_args.width=5")):
        said = refused(*TRAIN, *more)
        assert "The recipe mine.toml needs to run theirs:build to build its network. Hint: If you trust it" in said
    assert not theirs.exists()


def test_viewing_such_a_recipe_imports_nothing(theirs, cli):
    assert cli("recipes", "validate", "mine.toml", "smoke") == (
        "mine.toml: valid, and runs code: theirs:build builds its network (finetune --trust-factory)\nsmoke: valid\n"
    )
    assert [found["runs"] for found in cli("recipes", "validate", "mine.toml", "smoke", "--json")] == [
        "theirs:build",
        None,
    ]
    cli("recipes", "show", "mine.toml")
    cli("recipes", "show", "mine.toml", "--json")
    assert not theirs.exists()


@pytest.mark.parametrize("model", ["cifar_resnet20", "factories:small"])
def test_choosing_another_model_does_not_import_the_recipes(model, theirs, cli):
    cli(*TRAIN, "--model", model)
    assert not theirs.exists()


@pytest.mark.parametrize(
    "wish",
    [("--model", "theirs:build"), ("--set", "model=theirs:build"), ("--set", ' model = "theirs:build"')],
)
def test_a_factory_on_the_command_line_is_trusted(wish, theirs, cli):
    cli(*TRAIN, *wish)
    assert theirs.exists()
    assert "[model_args]\nwidth = 3" in Path("run/recipe.toml").read_text(encoding="utf-8")


def test_a_trusted_factory_is_trained_checked_and_resumed(theirs, cli, refused):
    done = cli("finetune", "--recipe", "mine.toml", "-o", "run", "-q", "--trust-factory", "--json", status=4)
    assert done["report"]["name"] == "theirs:build"
    theirs.unlink()
    sys.modules.pop("theirs")
    # Whoever sends the run's folder has named the function; the one who resumes it has not.
    assert "needs to run theirs:build" in refused("finetune", "--resume", "run", "-q")
    assert "needs to run theirs:build" in refused("finetune", "--recipe", "run/recipe.toml", "-o", "again", "-q")
    assert "needs to run theirs:build" in refused("check", "run", "-q")
    assert not theirs.exists()
    cli("finetune", "--resume", "run", "-q", "--no-check", "--trust-factory")
    assert theirs.exists()


def test_a_reproduction_ignores_its_recipes_factory(theirs):
    asked = reproduction.Reproduction(
        "table1", epochs=1, equal_schedule="mine.toml", networks=("cifar_resnet20",), methods=("vanilla",)
    )
    (job,) = reproduction.jobs(asked)
    _, recipe = network(asked, job.recipe, data.load("digits"))
    assert recipe.model == "perturbify:cifar_resnet20"
    assert not theirs.exists()


@pytest.mark.parametrize("key", ["pretrained", "weights", "reset_head"])
def test_a_recipe_may_not_choose_the_weights(key, refused):
    said = refused("finetune", "--recipe", "smoke", "--set", f"model_args.{key}=true", status=2)
    assert f"model_args.{key} does not belong in a recipe: use --{key.replace('_', '-')}" in said


def test_model_arguments_cannot_change_where_timm_loads_weights(refused):
    place = json.dumps({"url": "http://example.invalid/x.pth"})
    for key in ("pretrained_cfg", "pretrained_cfg_overlay"):
        said = refused("convert", "resnet10t", "--pretrained", "--model-arg", f"{key}={place}")
        assert f"does not accept '{key}' with pretrained weights" in said


@pytest.mark.parametrize(
    "name", ["timm:hf-hub:x/y", "hf-hub:x/y", "timm:local-dir:.", "local-dir:.", "hf_hub:x", "a:b:c"]
)
def test_a_module_name_cannot_lead_elsewhere(name, refused):
    assert "There is no mod" in refused("convert", name)
