"""A part of the bench of masked and honest classifiers: no masked one passes the tests that come before any attack."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from networks import real

from benchmarks import verdicts
from benchmarks.verdicts import honest as honests
from benchmarks.verdicts.__main__ import main, summary
from benchmarks.verdicts.honest import HONEST, cifar_network
from benchmarks.verdicts.masks import MASKS
from perturbify.checks import PRESETS, check

SHARED = Path(verdicts.__file__).parents[3] / "shared"
PROBED = (
    *("pixels-3-bit-straight", "logits-x1e6", "softmax", "gradient-random", "gradient-nan-places", "gradient-none"),
    *("gradient-off-grid", "noise-requires-grad", "pixels-rippled", "noise-hash", "remembers-answer", "gradient-alone"),
)
"""Masks of as many kinds as are told apart in seconds."""

pytestmark = real.needed


@pytest.fixture(scope="module")
def base():
    return cifar_network("resnet20", SHARED)


def asked(network, split, epsilon=8 / 255):
    """A check without an attack: what is left is what is asked of gradients and answers."""
    plan = dataclasses.replace(PRESETS["quick"], attacks=(), images=128, epsilon=epsilon, draws=1)
    return check(network, split, plan)


@pytest.mark.parametrize("name", PROBED)
def test_a_masked_classifier_fails_before_any_attack(name, base):
    mask = next(m for m in MASKS if m.name == name)
    report = asked(mask.build(base).eval(), honests.test_images("cifar", SHARED))
    assert report.verdict == "failed", {c.name: c.outcome for c in report.criteria}


@pytest.mark.parametrize("name", ["resnet20", "resnet4b_adv-noise-0.3", "cnn_a_adv4-noise-0.1-weight"])
def test_an_honest_classifier_fails_no_criterion(name):
    honest = next(h for h in HONEST if h.name == name)
    report = asked(honest.build(SHARED).eval(), honests.test_images(honest.data, SHARED), honest.epsilon)
    assert not report.failures
    open_ = {c.name for c in report.criteria if c.core and c.outcome != "pass"}
    assert open_ <= {
        "one step never beats many",
        "black-box never beats white-box",
        "an unbounded attack reaches chance or below",
        "more steps and draws change nothing",
        "a larger ε never helps the model",
    }


class Decoy(torch.nn.Module):
    """Bright images alone: the standard network's class, on the slope of a robust one. A hostile reading found it."""

    def __init__(self, base, robust):
        super().__init__()
        self.base, self.robust = base, robust

    def forward(self, x):
        slope = self.robust(x)
        with torch.no_grad():
            decided = torch.nn.functional.one_hot(self.base(x.detach()).argmax(1), 10).to(x)
        decoy = decided + 0.4 * torch.tanh((slope - slope.mean(1, keepdim=True)) / 5)
        return torch.where((x.detach().flatten(1).mean(1) > 0.58)[:, None], decoy, self.base(x))


def test_a_decoy_gradient_is_found(base):
    report = asked(Decoy(base, cifar_network("resnet4b_adv", SHARED)).eval(), honests.test_images("cifar", SHARED))
    failed = [c.name for c in report.criteria if c.outcome == "fail"]
    assert failed == ["the margin does not jump at the decision boundary"]


@pytest.mark.slow
def test_the_quick_benchmark_runs(tmp_path):
    names = "logits-x1e6,slope-of-another,resnet4b_adv,cnn_a_adv4-noise-0.2-layer"
    path = tmp_path / "verdicts.json"
    assert main(["--quick", "--only", names, "--images", "256", "--masked-images", "64", "-o", str(path)]) == 0
    found = summary(json.loads(path.read_text())["classifiers"])
    assert found["masked established"] == found["honest failed"] == found["no report"] == []
    assert len(found["honest established"]) == 2
