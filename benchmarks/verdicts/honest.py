"""Honest classifiers: standard attacks reveal whether they are robust."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import perturbify
from perturbify.data import Split, load
from perturbify.data.split import MemorySplit
from perturbify.zoo import create

PIXELS = 8 / 255
DIGITS = 0.1  # the recipe's ε


@dataclass(frozen=True)
class Honest:
    """A classifier that masks nothing.

    Attributes:
        name: Its name, without spaces.
        data: ``"cifar"`` or ``"digits"``.
        epsilon: Radius to check it at.
        build: Builds it, in eval mode, from the shared folder.
        source: The same without noise, which an attacker attacks first.
    """

    name: str
    data: str
    epsilon: float
    build: Callable[[Path], nn.Module]
    source: Callable[[Path], nn.Module] | None = None


def test_images(data: str, shared: Path) -> Split:
    """All test images of ``"cifar"`` (original pixels) or ``"digits"``."""
    if data == "digits":
        return load("digits").test
    mini = _shared_module("cifar10_data", shared).load_mini()
    return MemorySplit.from_numpy(mini["x_test"], mini["y_test"].astype(np.int64), None)


def cifar_network(name: str, shared: Path) -> nn.Module:
    """One of the shared folder's CIFAR-10 networks; takes pixels in [0, 1]."""
    return _shared_module("cifar10_zoo", shared).load(name)


def _shared_module(name: str, shared: Path):  # type: ignore[no-untyped-def]
    folder = str((shared / "data").resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


@functools.cache
def digits_network(kind: str, adversarial: bool) -> nn.Module:
    """Trains a network on the digits, deterministically, in about ten seconds on one core.

    Args:
        kind: ``"cnn"`` or ``"resnet20"``.
        adversarial: Whether to train on PGD-5 images at the recipe's ε.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _cnn() if kind == "cnn" else create("cifar_resnet20")
        split = load("digits").train
        epochs, batch = 15, 64
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=3e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * -(-len(split) // batch))
        for _ in range(epochs):
            for x, y in split.batches(batch, order=torch.randperm(len(split))):
                images = _pgd(net, x, y) if adversarial else x
                net.train()
                optimizer.zero_grad()
                F.cross_entropy(net(images), y).backward()
                optimizer.step()
                schedule.step()
    return net.eval()


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def _pgd(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    net.eval()
    adversarial = x + torch.empty_like(x).uniform_(-DIGITS, DIGITS)
    for _ in range(5):
        adversarial.requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(net(adversarial), y), adversarial)[0]
        adversarial = (adversarial.detach() + 0.03 * gradient.sign()).clamp(x - DIGITS, x + DIGITS).clamp(0, 1)
    return adversarial.detach()


def _cifar(name: str, epsilon: float = PIXELS) -> Honest:
    return Honest(name if epsilon == PIXELS else f"{name}-2px", "cifar", epsilon, lambda s: cifar_network(name, s))


def _digits(kind: str, adversarial: bool) -> Honest:
    name = f"digits-{kind}" + "-adv" * adversarial
    return Honest(name, "digits", DIGITS, lambda _: digits_network(kind, adversarial))


def _noisy(of: Honest, suffix: str, config: perturbify.PerturbConfig, method: str = "learn2perturb") -> Honest:
    def build(shared: Path) -> nn.Module:
        x = next(test_images(of.data, shared).batches(2))[0]
        return perturbify.wrap(of.build(shared), config, method=method, example_input=x).eval()

    return Honest(f"{of.name}-{suffix}", of.data, of.epsilon, build, of.build)


_Noise = perturbify.PerturbConfig
_resnet20, _resnet44, _resnet4b, _cnn_a = map(_cifar, ("resnet20", "resnet44", "resnet4b_adv", "cnn_a_adv4"))
_digits_cnn, _digits_resnet = _digits("cnn", False), _digits("resnet20", False)
_digits_cnn_adv, _digits_resnet_adv = _digits("cnn", True), _digits("resnet20", True)

HONEST: tuple[Honest, ...] = (
    _resnet20,
    _resnet44,
    _resnet4b,
    _cnn_a,
    _cifar("resnet4b_adv", 2 / 255),
    _noisy(_resnet20, "noise-0.1", _Noise(theta_init=0.1)),
    _noisy(_resnet44, "noise-0.2-channel", _Noise(theta_init=0.2, grain="channel")),
    *(_noisy(_resnet4b, f"noise-{theta}", _Noise(theta_init=theta)) for theta in (0.05, 0.1, 0.2, 0.3)),
    _noisy(_cnn_a, "noise-0.1-batch", _Noise(theta_init=0.1, draw_per="batch")),
    _noisy(_cnn_a, "noise-0.2-layer", _Noise(theta_init=0.2, grain="layer")),
    _noisy(_cnn_a, "noise-0.1-weight", _Noise(theta_init=0.1, site="weight", scale="relative", grain="layer"), "pni"),
    _digits_cnn,
    _digits_resnet,
    _digits_cnn_adv,
    _digits_resnet_adv,
    _noisy(_digits_cnn_adv, "noise-0.1", _Noise(theta_init=0.1)),
    _noisy(_digits_resnet_adv, "noise-0.2", _Noise(theta_init=0.2)),
)
