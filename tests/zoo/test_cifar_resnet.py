"""The paper's networks: their sizes, their names, and a public checkpoint's accuracy on real images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from perturbify import zoo
from perturbify.errors import ModelError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PUBLIC = SHARED / "weights" / "resnet20.safetensors"

needs_shared_data = pytest.mark.skipif(not PUBLIC.is_file(), reason=f"the real weights are not at {SHARED}")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar_resnet20", 269_722),
        ("cifar_resnet32", 464_154),
        ("cifar_resnet44", 658_586),
        ("cifar_resnet56", 853_018),
        ("cifar_resnet20_x1.5", 605_026),
        ("cifar_resnet20_x2", 1_073_962),
        ("cifar_resnet20_x4", 4_286_026),
        ("cifar_resnet18", 11_173_962),
    ],
)
def test_parameter_counts_are_the_papers(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in zoo.create(name).parameters()) == parameters


def test_there_are_seventeen_networks() -> None:
    assert len(zoo.model_names("perturbify:*")) == 4 * 4 + 1


def test_width_is_an_argument_too() -> None:
    by_argument, by_name = (zoo.create("cifar_resnet20", width=1.5), zoo.create("cifar_resnet20_x1.5"))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (by_argument, by_name)]
    assert shapes[0] == shapes[1]


def test_resnet18_names_its_shortcuts_as_public_checkpoints_do() -> None:
    names = zoo.create("cifar_resnet18").state_dict().keys()
    assert {
        "conv1.weight",
        "layer2.0.shortcut.0.weight",
        "layer4.0.shortcut.1.running_var",
        "linear.bias",
    } <= names
    assert "layer2.1.shortcut.0.weight" not in names


def test_convolutions_start_as_the_paper_says() -> None:
    conv = zoo.create("cifar_resnet20_x4").get_submodule("layer3.1.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
    assert conv.weight.mean().item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet20_x1.5", "cifar_resnet18"])
@pytest.mark.parametrize("size", [8, 15, 32])
def test_any_size_works_and_fx_traces_it(name: str, size: int) -> None:
    model = zoo.create(name, in_chans=1).eval()
    x = torch.randn(2, 1, size, size + 1)
    y = model(x)
    assert y.shape == (2, 10)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), y)


@pytest.mark.parametrize(
    ("padding", "before", "behind"), [("both", 8, 9), ("end", 0, 17)]
)  # 1.1 × (16, 32, 64) is (18, 35, 70)
def test_odd_differences_pad_every_channel(padding: str, before: int, behind: int) -> None:
    shortcut = zoo.create("cifar_resnet20", width=1.1, padding=padding).get_submodule("layer2.0.shortcut")
    y = shortcut(torch.ones(1, 18, 5, 5))
    assert y.shape == (1, 35, 3, 3)
    assert y[0, :, 0, 0].tolist() == [0.0] * before + [1.0] * 18 + [0.0] * behind


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"padding": "left"}, "padding='left' is neither 'both' nor 'end'"),
        ({"width": 0.0}, "width=0.0 leaves no channels"),
        ({"num_classes": 0}, "num_classes=0 and in_chans=3 must be at least 1"),
    ],
)
def test_bad_settings(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        zoo.create("cifar_resnet20", **kwargs)


@needs_shared_data
def test_state_dict_names_are_those_of_public_checkpoints() -> None:
    with safe_open(PUBLIC, "pt") as file:
        public = set(file.keys())
    ours = {k for k in zoo.create("cifar_resnet20").state_dict() if not k.endswith("num_batches_tracked")}
    assert ours == public


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    normalize = zoo.normalization(model)
    assert normalize is not None
    with torch.no_grad():
        hits = [
            (model.eval()(normalize(a)).argmax(1) == b).sum() for a, b in zip(x.split(256), y.split(256), strict=True)
        ]
    return 100 * sum(h.item() for h in hits) / len(y)


@needs_shared_data
def test_public_weights_score_what_they_should() -> None:
    with np.load(SHARED / "cifar10" / "cifar10_orig_mini.npz") as images:
        x = torch.from_numpy(images["x_test"]).permute(0, 3, 1, 2) / 255
        y = torch.from_numpy(images["y_test"])
    model = zoo.create("cifar_resnet20", weights=PUBLIC)
    assert accuracy(model, x, y) == pytest.approx(91.64, abs=0.1)
    # The zeros' place is part of what the weights were trained with.
    assert accuracy(zoo.create("cifar_resnet20", weights=PUBLIC, padding="end"), x, y) < 80


@needs_shared_data
def test_normalization_is_the_one_the_file_states() -> None:
    with safe_open(PUBLIC, "pt") as file:
        stated = file.metadata()
    normalize = zoo.normalization(zoo.create("cifar_resnet20", weights=PUBLIC))
    assert normalize is not None
    assert normalize.mean.flatten().tolist() == pytest.approx(json.loads(stated["mean"]))
    assert normalize.std.flatten().tolist() == pytest.approx(json.loads(stated["std"]))
