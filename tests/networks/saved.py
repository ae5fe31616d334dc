"""A small network of a user's own, to save and to load."""

import torch
from torch import nn

import perturbify

X = torch.rand(2, 3, 6, 6)


class Own(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def own():
    torch.manual_seed(0)
    return perturbify.wrap(Own(), example_input=X)


def load(path):
    return perturbify.load(path, model=Own())
