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
        ("cifar_wrn28_10", 36_479_194),  # 36.5M in "Wide Residual Networks", table 5
        ("cifar_resnext29", 34_426_698),  # 34.4M in the ResNeXt paper, table 7
        ("cifar_resnext29_2x64d", 9_130_314),
    ],
)
def test_parameter_counts_match_the_papers(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in zoo.create(name).parameters()) == parameters


def test_there_are_twenty_networks() -> None:
    assert len(zoo.model_names("perturbify:*")) == 4 * 4 + 1 + 1 + 2


def test_a_wide_resnet_is_28_layers_deep() -> None:
    model = zoo.create("cifar_wrn28_10")
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 28
    assert [n for n in convolutions if "shortcut" in n] == [f"layer{number}.0.shortcut" for number in (1, 2, 3)]
    assert [model.get_parameter(f"layer{n}.3.conv2.weight").shape[0] for n in (1, 2, 3)] == [160, 320, 640]


def test_pre_activation_shortcuts_pass_the_input_unchanged() -> None:
    block = zoo.create("cifar_wrn28_10", width=1).get_submodule("layer1.1")
    nn.init.zeros_(block.get_parameter("conv2.weight"))
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(block(x), x)  # no ReLU behind the sum


@pytest.mark.parametrize(("name", "groups"), [("cifar_resnext29", 8), ("cifar_resnext29_2x64d", 2)])
def test_resnext_stages_have_64_128_and_256_channels(name: str, groups: int) -> None:
    model = zoo.create(name)
    for number, width in ((1, 64), (2, 128), (3, 256)):
        conv = model.get_submodule(f"layer{number}.2.conv2")
        assert isinstance(conv, nn.Conv2d)
        assert (conv.groups, conv.out_channels) == (groups, groups * width)
        assert model.get_parameter(f"layer{number}.2.conv3.weight").shape[0] == 4 * width
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 29 - 1 + 3


def test_width_is_an_argument_too() -> None:
    by_argument, by_name = (zoo.create("cifar_resnet20", width=1.5), zoo.create("cifar_resnet20_x1.5"))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (by_argument, by_name)]
    assert shapes[0] == shapes[1]


def test_resnet18_names_its_shortcuts_like_public_checkpoints() -> None:
    names = zoo.create("cifar_resnet18").state_dict().keys()
    assert {
        "conv1.weight",
        "layer2.0.shortcut.0.weight",
        "layer4.0.shortcut.1.running_var",
        "linear.bias",
    } <= names
    assert "layer2.1.shortcut.0.weight" not in names


def test_convolutions_are_initialised_as_in_the_paper() -> None:
    torch.manual_seed(0)
    conv = zoo.create("cifar_resnet20_x4").get_submodule("layer3.1.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
    assert conv.weight.mean().item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("cifar_resnet20", {}),
        ("cifar_resnet20_x1.5", {}),
        ("cifar_resnet18", {}),
        ("cifar_wrn28_10", {"width": 1}),
        ("cifar_resnext29", {"cardinality": 1}),
    ],
)
@pytest.mark.parametrize("size", [8, 15, 32])
def test_any_size_works_and_fx_traces_it(name: str, kwargs: dict[str, int], size: int) -> None:
    model = zoo.create(name, in_chans=1, **kwargs).eval()
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
    ("name", "kwargs", "message"),
    [
        ("cifar_resnet20", {"padding": "left"}, "padding='left' is neither 'both' nor 'end'"),
        ("cifar_resnet20", {"width": 0.0}, "width=0.0 leaves no channels"),
        ("cifar_resnet20", {"num_classes": 0}, "num_classes=0 and in_chans=3 must be at least 1"),
        ("cifar_wrn28_10", {"width": 0}, "width=0 leaves no channels"),
        ("cifar_resnext29", {"cardinality": 0}, "cardinality=0 must be at least 1"),
        ("cifar_resnext29", {"in_chans": 0}, "num_classes=10 and in_chans=0 must be at least 1"),
    ],
)
def test_bad_settings(name: str, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        zoo.create(name, **kwargs)


@needs_shared_data
def test_state_dict_names_match_public_checkpoints() -> None:
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
def test_public_weights_reach_their_published_accuracy() -> None:
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
