"""What the zoo knows about a network it built, or that timm built."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
from torch import nn

from perturbify import zoo


@pytest.mark.parametrize(
    ("name", "kwargs", "size", "mean"),
    [
        ("cifar_resnet20", {}, (3, 32, 32), [0.4914, 0.4822, 0.4465]),
        ("cifar_resnet20", {"in_chans": 1}, (1, 32, 32), None),
        ("cifar_wrn28_10", {"width": 1}, (3, 32, 32), [0.4914, 0.4822, 0.4465]),
        ("cifar_resnext29", {"cardinality": 1}, (3, 32, 32), [0.4914, 0.4822, 0.4465]),
        ("timm:resnet18", {}, (3, 224, 224), [0.485, 0.456, 0.406]),
        ("timm:resnet18", {"in_chans": 1}, (1, 224, 224), None),
        ("timm:vit_tiny_patch16_224", {"img_size": 64}, (3, 64, 64), [0.5, 0.5, 0.5]),
        ("torchvision:inception_v3", {}, (3, 299, 299), [0.485, 0.456, 0.406]),
        ("torchvision:vit_b_16", {"image_size": 64}, (3, 64, 64), [0.485, 0.456, 0.406]),
        ("torchvision:lraspp_mobilenet_v3_large", {}, None, [0.485, 0.456, 0.406]),
        ("torchvision:raft_small", {}, None, None),
        ("torchvision:r3d_18", {}, (3, 16, 112, 112), None),
    ],
)
def test_input_size_and_normalization(
    name: str, kwargs: dict[str, int], size: tuple[int, ...] | None, mean: list[float] | None
) -> None:
    model = zoo.create(name, **kwargs)
    assert zoo.input_size(model) == size
    found = zoo.normalization(model)
    assert (found.mean.flatten().tolist() if found else None) == (mean and pytest.approx(mean))


def test_nothing_is_known_about_a_strangers_network() -> None:
    stranger = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert (zoo.describe(stranger), zoo.input_size(stranger), zoo.normalization(stranger)) == (
        None,
        None,
        None,
    )


def test_copies_keep_the_tag() -> None:
    model = zoo.create("cifar_resnet20", width=2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert zoo.describe(twin) == zoo.describe(model) is not None


def test_a_timm_model_is_recognised_without_a_tag() -> None:
    model = timm.create_model("resnet18.a1_in1k", num_classes=10)
    spec = zoo.describe(model)
    assert spec == zoo.ModelSpec("timm:resnet18.a1_in1k", {"num_classes": 10}, "as given")
    assert zoo.build(spec).state_dict().keys() == model.state_dict().keys()


def test_a_changed_timm_model_is_not_recognised() -> None:
    wider, other = (timm.create_model("resnet18") for _ in range(2))
    wider.layer1[0].conv1 = nn.Conv2d(64, 65, 3)
    other.act1 = nn.SiLU()  # the same shapes, another function
    assert zoo.describe(wider) is None
    assert zoo.describe(other) is None
