"""A plain network, images for it, and the convolution that most of the others here are made of."""

import torch
import torch.nn.functional as F
from torch import nn

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv(inside=3, outside=4, size=3, **options):
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


class Plain(nn.Module):
    """What modifications are applied to."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = conv(), nn.BatchNorm2d(4), conv(4, 4, groups=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.conv1(x)))
        return self.fc(self.conv2(x).mean((2, 3)))
