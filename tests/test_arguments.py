"""Arguments of another type: one sentence that names what was given, and what to give instead."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from networks.greys import Brightness, noisy
from torch import nn

import perturbify as p
from perturbify.attacks import Passes
from perturbify.checks.compare import compare
from perturbify.errors import PerturbifyError, WrongType

X = torch.rand(2, 3, 6, 6)
PAIR = (X, torch.tensor([0, 1]))
PLAIN, NOISY = Brightness(), noisy()
INSIDE = p.wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), example_input=X, normalize=p.Normalize([0.5], [0.5]))


@dataclass(frozen=True)
class Bare:
    """An attack that returns images alone."""

    epsilon: float = 0.1
    norm = "linf"
    passes = Passes(1, 0)

    def craft(self, model, x, y):
        return x


WRONG = {
    "a grain": (lambda: p.wrap(PLAIN, "channel", example_input=X), r'PerturbConfig\(grain="channel"\)'),
    "a site": (lambda: p.plan(PLAIN, "weight", example_input=X), r'PerturbConfig\(site="weight"\)'),
    "a method": (lambda: p.wrap(PLAIN, "pni", example_input=X), 'method="pni"'),
    "a typo": (lambda: p.wrap(PLAIN, "chanel", example_input=X), "Did you mean 'channel'"),
    "settings": (lambda: p.wrap(PLAIN, {"grain": "layer"}, example_input=X), r"PerturbConfig\(\*\*settings\)"),
    "a model's name": (lambda: p.wrap("resnet18"), r"zoo\.create\('resnet18'\)"),
    "a file": (lambda: p.check("a.safetensors", PAIR), r"perturbify\.load\('a.safetensors'\)"),
    "weights": (lambda: p.wrap(PLAIN.state_dict()), "load_state_dict"),
    "a class": (lambda: p.wrap(nn.Conv2d), "Create an instance"),
    "a shape": (lambda: p.wrap(PLAIN, example_input=(3, 6, 6)), r"torch\.rand\(2, 3, 6, 6\)"),
    "numbers": (lambda: p.wrap(PLAIN, example_input=X, normalize=(0.5, 0.5)), r"perturbify\.Normalize\(mean, std\)"),
    "a preset": (lambda: p.check(PLAIN, PAIR, "quick"), r'PRESETS\["quick"\]'),
    "one attack": (lambda: p.check(PLAIN, PAIR, attacks="pgd"), r"attacks=\["),
    "an attack's tensor": (lambda: p.check(PLAIN, PAIR, attacks=[Bare()]), "returned Tensor"),
    "another network": (lambda: p.check(PLAIN, PAIR, against=PLAIN), r'Pass \("name", network\)'),
    "a missing folder": (lambda: p.check(PLAIN, PAIR, folder="nowhere"), "There is no folder 'nowhere'"),
    "an array": (lambda: p.predict(NOISY, X.numpy()), r"torch\.from_numpy"),
    "grey levels": (lambda: p.predict(NOISY, (255 * X).byte()), r"images\.float\(\) / 255"),
    "grey levels in floats": (
        lambda: p.predict(INSIDE, 255 * X),
        r"pixels in \[0, 1\], and these are from .* to 2\d\d",
    ),
    "channels last": (lambda: p.predict(NOISY, X.movedim(1, -1)), "Channels come first"),
    "another device": (lambda: p.predict(NOISY, X.to("meta")), r"images\.to\('cpu'\)"),
    "half a draw": (lambda: p.predict(NOISY, X, 2.5), "a number of draws, not float"),
    "a network to load": (lambda: p.load(NOISY), r"perturbify\.save\(network, path\)"),
    "a network to verify": (lambda: p.verify(NOISY), "takes the path of a file"),
    "save the other way round": (lambda: p.save("a.safetensors", NOISY), "Give the network first"),
    "a network to resume": (lambda: p.resume(NOISY), "the path of a run's folder, not"),
    "no folder": (lambda: p.finetune(PLAIN, "smoke", None), "the run's folder, not None"),
    "a dict for a recipe": (lambda: p.finetune(PLAIN, {}, "run"), r"recipe\.load"),
    "a switch": (lambda: p.noise(NOISY, "off"), "True or False, not str"),
    "a list": (lambda: p.perturbations([NOISY]), "must be a torch.nn.Module, not list"),
    "a network for a graph": (lambda: p.insert_noise(PLAIN), r"symbolic_trace\(network\)"),
    "networks in a list": (lambda: compare([PLAIN], PAIR), r'Pass \{"name": network'),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_way_out_is_said(what):
    call, said = WRONG[what]
    with pytest.raises(PerturbifyError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_wrong_type_is_a_type_error():
    with pytest.raises(TypeError) as caught:
        p.wrap(PLAIN, "channel", example_input=X)
    assert isinstance(caught.value, WrongType)


@pytest.mark.parametrize("given", ["paper", "pgd"])
def test_attacks_are_several(given):
    with pytest.raises(ValueError, match="attacks must be a tuple"):
        p.CheckPlan(given)


@pytest.mark.parametrize("setting", [{"images": "8"}, {"epsilon": "8/255"}, {"queries": 5}])
def test_a_plan_names_its_culprit(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be of type"):
        p.CheckPlan(**setting)
    assert p.CheckPlan(images=np.int64(8), epsilon=np.float32(0.03)).images == 8
