"""Real CIFAR-10 images and small networks with public weights, from the project's shared data."""

import importlib.util
from pathlib import Path

import pytest
import torch

DATA = Path(__file__).parents[3] / "shared" / "data"
needed = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real images and weights are not in {DATA}")


def images(n):
    """The first n original test images as pixels in [0, 1], and their labels."""
    if not DATA.is_dir():
        pytest.skip(f"the real images are not in {DATA}")
    mini = _module("cifar10_data").load_mini()
    x = torch.from_numpy(mini["x_test"][:n]).permute(0, 3, 1, 2).contiguous().float().div_(255)
    return x, torch.from_numpy(mini["y_test"][:n]).long()


def network(name):
    """One of the zoo's networks, in eval mode; it takes pixels in [0, 1]."""
    return _module("cifar10_zoo").load(name)


def accuracy(net, x, y, draws=1):
    """Mean accuracy over draws of the noise."""
    with torch.no_grad():
        return torch.stack([net(x).argmax(1) == y for _ in range(draws)]).float().mean().item()


def _module(name):
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
