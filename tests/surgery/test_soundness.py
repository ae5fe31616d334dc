"""Weights that are no numbers, or others than noise is made for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import perturbify
from perturbify.errors import ModelError, SurgeryError

IMAGES = torch.rand(2, 3, 8, 8)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "5.bias"])
@pytest.mark.parametrize("verify", [True, False])
def test_nan_is_named(name: str, verify: bool) -> None:
    model = network()
    model.state_dict()[name].view(-1)[1] = torch.nan
    with pytest.raises(ModelError, match=rf"Sequential has weights that are not finite: {name} holds NaN .* in 1 of"):
        perturbify.wrap(model, example_input=IMAGES, verify=verify)


def test_an_infinite_weight_is_named_large_ones_pass() -> None:
    model = network()
    model[5].weight.data.fill_(3e38)  # whose sum is beyond float32
    assert perturbify.wrap(model, example_input=IMAGES)
    model[5].weight.data[0] = torch.inf
    with pytest.raises(ModelError, match=r"5\.weight holds NaN or infinity in 4 of 20"):
        perturbify.wrap(model, example_input=IMAGES)


class Masked(nn.Module):
    """Infinite on purpose, in a buffer and in a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("mask", torch.tensor([0, -torch.inf, 0, 0]))
        self.limit = nn.Parameter(torch.tensor(torch.inf), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x).mean((2, 3)) + self.mask).softmax(-1).minimum(self.limit)


class Spectral(nn.Module):
    """Complex weights, and a real convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.filter = nn.Parameter(torch.randn(4, 1, 1, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.fft.irfft2(torch.fft.rfft2(y) * self.filter, s=y.shape[-2:]).mean((2, 3))


class Integers(nn.Module):
    """A weight of integers, from which the real one is made."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.arange(108, dtype=torch.int8).view(4, 3, 3, 3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, self.code / 100).mean((2, 3))


@pytest.mark.parametrize("kind", [Masked, Spectral, Integers])
def test_networks_with_other_number_types_are_wrapped(kind: type[nn.Module]) -> None:
    model = perturbify.wrap(kind(), example_input=IMAGES)
    assert len(list(perturbify.perturbations(model))) == 1
    assert not torch.equal(model(IMAGES), model(IMAGES))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).to(torch.complex64)).abs().mean((2, 3))


def test_complex_convolutions_are_named_and_can_be_excluded() -> None:
    with pytest.raises(SurgeryError, match=r"second convolves complex numbers, but the noise is real\. Leave it out"):
        perturbify.wrap(Complex(), example_input=IMAGES)
    wrapped = perturbify.wrap(Complex(), perturbify.PerturbConfig(exclude=("second",)), example_input=IMAGES)
    assert len(list(perturbify.perturbations(wrapped))) == 1
