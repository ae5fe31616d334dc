"""How pixels reach a plain network: what decides, what is a guess, and what a trial of the guess finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from perturbify import Normalize, zoo
from perturbify.errors import ModelError
from perturbify.zoo.pixels import Statistics, decide, tried

DATA = Statistics("mine", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
OURS = (DATA.mean, DATA.std)
HALF = ((0.5,) * 3, (0.5,) * 3)


def timm_net(tmp_path: Path, **metadata: str) -> nn.Module:
    save_file(
        timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "w.safetensors", metadata or None
    )
    return zoo.create("timm:test_resnet", num_classes=2, weights=tmp_path / "w.safetensors")


def pretrained(_: Path) -> nn.Module:
    model = zoo.create("timm:test_resnet", num_classes=2)
    model.perturbify_spec = zoo.ModelSpec("timm:test_resnet", {"num_classes": 2}, "pretrained, head fresh")
    return model


class InFront(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.front, self.body = layer, nn.Conv2d(3, 4, 3)


class Buffers(nn.Module):
    """As RobustBench's networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.rand(1, 3, 1, 1))
        self.register_buffer("sigma", torch.rand(1, 3, 1, 1))
        self.body = nn.Conv2d(3, 4, 3)


class ImageNormalizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.register_buffer("std", torch.rand(1, 3, 1, 1))


KNOWN: dict[str, tuple[Any, Any, str]] = {
    "fresh": (lambda _: zoo.create("timm:test_resnet", num_classes=2), OURS, "statistics of mine, as the weights are"),
    "pretrained": (pretrained, HALF, "from timm's configuration of these weights"),
    "stated": (lambda p: timm_net(p, mean="[0.2]", std="[0.3]"), ((0.2,), (0.3,)), "weights file's own mean and std"),
    "ours in front": (
        lambda _: nn.Sequential(Normalize(*HALF), nn.Conv2d(3, 4, 3)),
        None,
        "inside, by Normalize ('0')",
    ),
    "torchvision's": (
        lambda _: InFront(torchvision.transforms.Normalize([0.5] * 3, [0.5] * 3)),
        None,
        "inside, by Normalize ('front')",
    ),
    "somebody's": (
        lambda _: nn.Sequential(nn.Sequential(ImageNormalizer()), nn.Conv2d(3, 4, 3)),
        None,
        "inside, by ImageNormalizer",
    ),
    "buffers": (lambda _: Buffers(), None, "inside, by constants of Buffers"),
    "a detector": (lambda _: zoo.create("torchvision:ssdlite320_mobilenet_v3_large"), None, "GeneralizedRCNNTransform"),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_known_normalisation_is_not_a_guess(kind: str, tmp_path: Path) -> None:
    build, constants, said = KNOWN[kind]
    found = decide(build(tmp_path), DATA)
    assert (found.layer and found.layer.constants, found.guess) == (constants, False)
    assert said in str(found)


GUESSED: dict[str, tuple[Any, Any, str]] = {
    "timm's default": (timm_net, HALF, "GUESSED from timm's default for this architecture"),
    "timm's own function": (lambda _: timm.create_model("test_resnet"), HALF, "GUESSED from timm's default"),
    "a stranger's": (lambda _: nn.Sequential(nn.Conv2d(3, 4, 3)), OURS, "GUESSED from the statistics of mine"),
    "batch norm in front": (lambda _: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), OURS, "statistics of mine"),
}


@pytest.mark.parametrize("kind", GUESSED)
def test_an_unknown_normalisation_is_a_guess(kind: str, tmp_path: Path) -> None:
    build, constants, said = GUESSED[kind]
    found = decide(build(tmp_path), DATA)
    assert (found.layer and found.layer.constants, found.guess) == (constants, True)
    assert said in str(found)


def test_without_data_normalisation_may_be_a_guess() -> None:
    found = decide(nn.Conv2d(3, 4, 3), None)
    assert (found.layer, found.guess) == (None, True)
    assert str(found).startswith("Pixels go into the network as they are, in [0, 1] (GUESSED: nothing says")
    assert not decide(zoo.create("timm:test_resnet"), None).guess


def test_an_explicit_normalisation_wins(tmp_path: Path) -> None:
    stated = timm_net(tmp_path, mean=json.dumps([0.2] * 3), std=json.dumps([0.3] * 3))
    assert decide(stated, DATA, "inside").layer is None
    given = decide(stated, DATA, Normalize([0.25], [0.5]), channels=3)
    assert given.layer is not None and given.layer.constants == ((0.25,) * 3, (0.5,) * 3)
    assert str(given) == "Pixels are normalised before the network: mean 0.25, 0.25, 0.25, std 0.5, 0.5, 0.5 (as given)"
    with pytest.raises(ModelError, match="2 numbers for mean and std, but the images have 3 channels"):
        decide(stated, DATA, Normalize([0.2, 0.3], [0.2, 0.3]), channels=3)


class Bright(nn.Module):
    """Tells bright images from dark ones, where they are normalised as it wants it."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean_of_pixels, self.std_of_pixels = mean, std

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.mean((1, 2, 3)) * self.std_of_pixels + self.mean_of_pixels - 0.45
        return torch.stack([-pixels, pixels], 1)


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    x = (
        torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        * torch.linspace(0.6, 1.2, 200)[:, None, None, None]
    )
    return list(zip(x.split(50), (x.mean((1, 2, 3)) > 0.45).long().split(50), strict=True))


def test_a_trial_finds_the_better_normalisation(batches: list[tuple[Tensor, Tensor]]) -> None:
    guess = decide(Bright(0, 1), DATA)
    found = tried(Bright(0, 1), guess, DATA, batches)
    assert found is not None and found.better is not None
    assert (found.images, found.better[0].layer, found.better[1]) == (200, None, 200)
    assert found.right < 190
    found = tried(Bright(0.5, 0.5), guess, DATA, batches)
    assert found is not None and found.better is not None and found.better[0].layer is not None
    assert found.better[0].layer.constants == HALF


def test_a_right_guess_survives_a_trial(batches: list[tuple[Tensor, Tensor]]) -> None:
    model = Bright(0.2, 0.5).train()
    found = tried(model, decide(model, DATA), DATA, batches)
    assert found is not None and (found.right > 150, found.better) == (True, None)
    assert model.training


def test_a_lucky_trial_changes_nothing(batches: list[tuple[Tensor, Tensor]]) -> None:
    few = [(x[:5], y[:5]) for x, y in batches[:1]]
    found = tried(Bright(0, 1), decide(Bright(0, 1), DATA), DATA, few)
    assert found is not None and found.better is None


def test_without_a_classifier_there_is_no_trial(batches: list[tuple[Tensor, Tensor]]) -> None:
    model = nn.Conv2d(1, 4, 3)
    assert tried(model, decide(model, DATA), DATA, batches) is None
