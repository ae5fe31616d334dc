"""The networks of the golden files in tests/checkpoint/golden, which an earlier version of perturbify wrote."""

import timm
import torch
from timm.layers import CondConv2d
from torch import nn


class Repeating(nn.Module):
    """One convolution, called three times; another, once."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = self.body(x).relu()
        return self.head(x.mean((2, 3)))


class Conditional(nn.Module):
    """A convolution whose filter depends on the image, so that the images stand side by side in its channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.route = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 2)
        self.conv, self.head = CondConv2d(4, 6, 3, padding=1, num_experts=2), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.conv(x, self.route(x.mean((2, 3))).sigmoid()).relu().mean((2, 3)))


class Branching(nn.Module):
    """Control flow on values, which torch.fx cannot follow: the earlier version put its noise in by hooks."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.body, self.head = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        x = self.norm(self.stem(x))
        x = self.body(x if x.mean() > 0 else -x).relu()
        return self.head(x.mean((2, 3)))


def small():
    """Convolutions, batch norm, a residual addition and a linear layer."""
    return timm.create_model("test_resnet", num_classes=3, stem_width=4, channels=(4, 4, 8, 8), layers=(1, 1, 1, 1))


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


MAKERS = {
    "resnet": small,
    "repeating": Repeating,
    "conditional": Conditional,
    "pni": plain,
    "rse": plain,
    "adv_bnn": plain,
    "pixeldp": plain,
    "normalized": plain,
    "hooks": Branching,
    "additions": small,
}


def make(name):
    torch.manual_seed(0)
    return MAKERS[name]()
