"""A classifier and images of known accuracy under attack, on which a whole check takes moments."""

import torch
from torch import nn

import perturbify
from perturbify import CheckPlan, PerturbConfig
from perturbify.data import Data
from perturbify.data.split import MemorySplit

PLAN = CheckPlan(
    attacks=("fgsm", "pgd", "eot", "transfer"),
    images=None,
    epsilon=8 / 255,
    step_size=4 / 255,
    steps=4,
    eot_draws=3,
    draws=5,
    queries=(1, 5),
    batch_size=64,
)
FAR, NEAR = 40, 3  # grey levels from the middle; ε is 8


class Brightness(nn.Module):
    """Calls an image dark (0) or bright (1) by its mean, through a convolution, so that noise has a place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.conv.weight.data = torch.stack([torch.full((3, 1, 1), -20.0), torch.full((3, 1, 1), 20.0)])
        self.conv.bias.data = torch.tensor([30.0, -30.0])

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Step(nn.Module):
    """Takes the gradient away."""

    def forward(self, x):
        return (x > 0).float()


def brightness(far, near, wrong=0):
    """Images far from the middle and near it, half dark and half bright; ``wrong`` of the far ones are mislabelled."""
    distance = torch.tensor([FAR] * far + [NEAR] * near)
    y = torch.arange(far + near) % 2
    levels = torch.where(y == 1, 128 + distance, 127 - distance).to(torch.uint8)
    y[:wrong] = 1 - y[:wrong]
    return MemorySplit(levels.view(-1, 1, 1, 1).expand(-1, 3, 6, 6).clone(), y)


def noisy(theta=0.25, net=None, **config):
    torch.manual_seed(0)
    net = net or Brightness()
    return perturbify.wrap(net, PerturbConfig(theta_init=theta, **config), example_input=torch.rand(2, 3, 6, 6))


def named(split, classes=("dark", "bright")):
    return Data("greys", split, split, classes, (3, 6, 6), (0.5,) * 3, (0.2,) * 3)
