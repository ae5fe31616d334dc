"""The model card says what is true of the file it goes with, and nothing else."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import perturbify
from perturbify import CheckPlan, PerturbConfig, check, checkpoint, zoo
from perturbify.checks.render.words import crafted_on
from perturbify.data.split import MemorySplit
from perturbify.model_card import model_card
from perturbify.text import percent

X = torch.rand(2, 3, 8, 8)
NOISY = PerturbConfig()


class Own(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def named(config=NOISY):
    model = zoo.create("timm:test_efficientnet", num_classes=3)
    return perturbify.wrap(model, config, example_input=X, normalize=zoo.normalization(model))


def loading_line(card):
    (line,) = re.findall(r"^model = perturbify\.load.*$", card, re.M)
    return line


def test_a_converted_network():
    header = checkpoint.describe(named())
    card = model_card(header)
    assert card.startswith("# timm:test_efficientnet, converted for learn2perturb, not trained\n")
    noise = "behind convolutions, absolute, one θ per element, a draw per sample, θ₀ = 0.25, θ_min = 0.01"
    assert f"| noise | {len(header.sites)} sites, {noise} |" in card
    assert "two passes over one image give two answers" in card
    assert "| weights at the start | fresh |" in card and "3×8×8" in card and "| normalisation inside | yes |" in card
    assert "Not checked yet" in card and "## Recipe" not in card
    assert loading_line(card).endswith("# eval mode; noise on; pixels in [0, 1]")


def test_its_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    header = perturbify.save(named(), "model.safetensors")
    (code,) = re.findall(r"```python\n(.*?)```", model_card(header), re.S)
    scope = {}
    exec(code, scope)
    assert not torch.equal(scope["model"](X), scope["model"](X))


def test_a_baseline_claims_no_noise():
    card = model_card(checkpoint.describe(named(None)))
    assert "two answers" not in card and "noise on" not in card
    assert "A network without noise" in card and "| noise | none (a baseline) |" in card


def test_a_users_network_says_what_loading_needs():
    header = checkpoint.describe(perturbify.wrap(Own(), example_input=X))
    line = loading_line(model_card(header))
    assert "model=network" in line and header.source_class in line
    assert "pixels in [0, 1]" not in line  # nothing is known of what it takes


def test_a_factory_says_what_loading_needs():
    header = checkpoint.describe(perturbify.wrap(Own(), example_input=X))
    header = replace(header, model={"name": "mine.nets:small", "kwargs": {}, "weights": "fresh"})
    assert "trust_factory=True" in loading_line(model_card(header))


@pytest.mark.parametrize("config", [None, NOISY], ids=["baseline", "noisy"])
def test_a_trained_and_checked_network_shows_every_figure(config):
    model = named(config)
    split = MemorySplit(torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8), torch.arange(6) % 3)
    report = check(model, split, CheckPlan(attacks=("fgsm", "pgd", "twin", "transfer", "square"), steps=2))
    header = replace(
        checkpoint.describe(model),
        check=report.summary(),
        recipe="name = 'x'\n",
        method="learn2perturb",
        classes=["a", "b", "c"],
        trained={"epochs": 7},
    )
    card = model_card(header)
    assert card.startswith("# timm:test_efficientnet, learn2perturb\n")
    assert "on 6 test images of own images" in card and "within ε = 8/255" in card
    assert "```toml\nname = 'x'\n```" in card
    assert "| classes | 3 |" in card and "| trained | 7 epochs |" in card
    worst = report.headline.worst
    assert f"**Not established; worst case {percent(worst.value, worst.interval)}% on 6 images of own images.**" in card
    for result in report.results:
        low, high = result.interval
        figure = f"{100 * result.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        images = "6" if result.attacked == 6 else f"{result.attacked} of 6"
        line = f"{result.attack} | {crafted_on(result)} | {result.noise} | {images} | {result.draws} | {figure}"
        assert f"| {line} |" in card
    assert all(c.name in card for c in report.criteria if c.outcome != "pass")


OLDER = {
    "dataset": "digits",
    "preset": "quick",
    "n": 50,
    "seed": 0,
    "epsilon": 8 / 255,
    "passed": True,
    "criteria": {"one step never beats many": "undecided", "a larger ε never helps the model": "pass"},
    "rows": [
        {
            **{"network": "itself", "attack": "PGD-7", "crafted_on": "noise on", "noise": "on", "norm": "linf"},
            **{"epsilon": 8 / 255, "n": 50, "draws": 10, "accuracy": 0.5, "interval": [0.4, 0.6], "majority": 0.5},
        }
    ],
}
"""What an older version kept of a check."""


def test_a_check_of_an_older_version_is_shown():
    card = model_card(replace(checkpoint.describe(named()), check=OLDER))
    assert "**No criterion failed, by an older version that gave no verdict; 50 images of digits.**" in card
    assert "| PGD-7 | noise on | on | 50 | 10 | 50.0 (40.0 to 60.0) |" in card
    assert "Criteria: 1 pass, 0 fail, 1 undecided, 0 not measured." in card
    assert "Undecided: one step never beats many." in card
    assert "**A criterion failed, by" in model_card(
        replace(checkpoint.describe(named()), check=OLDER | {"passed": False})
    )


def test_a_multi_input_network_describes_each_input():
    inputs = {"x": {"shape": [3, 8, 8]}, "more": {"list": [{"whole": [4, 2]}, {"dict": {"k": {"value": True}}}]}}
    card = model_card(replace(checkpoint.describe(named()), inputs=inputs))
    assert r"| input | x: 3×8×8, more: \[4×2, {k: True}\] |" in card


def test_a_recipe_does_not_close_its_fence():
    card = model_card(replace(checkpoint.describe(named()), recipe="a = 1\n```\n<img src=x>\n"))
    assert "````toml\na = 1\n```\n<img src=x>\n````\n" in card
