"""A file's defence: the one it names, or the one there was when files named none."""

import pytest
import torch
from torch import nn

import perturbify
from perturbify import checkpoint
from perturbify.errors import MethodError
from perturbify.model_card import model_card


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.fixture
def file(tmp_path):
    def write(config, method):
        wrapped = perturbify.wrap(network(), config, example_input=torch.rand(2, 3, 8, 8))
        perturbify.save(wrapped, tmp_path / "model.safetensors")
        checkpoint.annotate(tmp_path / "model.safetensors", method=method)
        return tmp_path / "model.safetensors"

    return write


@pytest.mark.parametrize(("config", "method"), [(perturbify.PerturbConfig("channel"), "learn2perturb"), (None, "none")])
def test_a_file_without_a_method(config, method, file):
    path = file(config, None)
    loaded = perturbify.load(path, model=network())
    assert loaded.surgery.method == method
    assert method in model_card(checkpoint.read_header(path)).splitlines()[0]
    assert loaded.surgery.plan.config == config


def test_a_file_whose_method_contradicts_its_noise(file):
    with pytest.raises(MethodError, match="The noise of the method rse has learnable=False, but this noise has True"):
        perturbify.load(file(perturbify.PerturbConfig("channel"), "rse"), model=network())
