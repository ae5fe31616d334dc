"""ResNeXt-29 for 32×32 images: Xie et al., "Aggregated Residual Transformations" (CVPR 2017), section 5.3."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.errors import ModelError
from perturbify.zoo.cifar_network import CifarNetwork

PER_GROUP = 64
"""Channels of a group in the first stage: the "64d" of the names."""


class GroupedBlock(nn.Module):
    """1×1, grouped 3×3 and 1×1 convolutions, each with BatchNorm, plus the shortcut, then ReLU."""

    def __init__(self, planes_in: int, inner: int, planes: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        changes = stride > 1 or planes_in != planes
        self.shortcut = (
            nn.Sequential(nn.Conv2d(planes_in, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, planes_in, H, W) to (B, planes, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class CifarResNeXt(CifarNetwork):
    """A 3×3 stem of 64 channels, three stages of three blocks with 256, 512 and 1024 channels, pooling, one layer.

    Args:
        cardinality: Groups of the 3×3 convolutions.
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A count is not positive.
    """

    def __init__(self, cardinality: int, *, num_classes: int, in_chans: int) -> None:
        super().__init__(num_classes, in_chans)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        planes_in = 64
        for number in (1, 2, 3):
            inner, planes = PER_GROUP * cardinality * 2 ** (number - 1), 256 * 2 ** (number - 1)
            first = GroupedBlock(planes_in, inner, planes, cardinality, 1 if number == 1 else 2)
            rest = [GroupedBlock(planes, inner, planes, cardinality, 1) for _ in range(2)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            planes_in = planes
        self.linear = nn.Linear(planes_in, num_classes)
        self.start_convolutions_()

    def forward(self, x: Tensor) -> Tensor:
        """Maps normalised images (B, in_chans, H, W) to logits (B, num_classes); any H and W."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean((2, 3)))


def cifar_resnext29(cardinality: int = 8, *, num_classes: int = 10, in_chans: int = 3) -> CifarResNeXt:
    """ResNeXt-29 with groups of 64 channels.

    Args:
        cardinality: 8 and 16 in the ResNeXt paper. The release of RSE, whose figures are in Learn2Perturb's table 4,
            has 2 (and a 1×1 stem).
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A count is not positive.
    """
    if cardinality < 1:
        raise ModelError(f"cardinality={cardinality} must be at least 1; ResNeXt-29 (8×64d) has 8.")
    return CifarResNeXt(cardinality, num_classes=num_classes, in_chans=in_chans)


NETWORKS: dict[str, Callable[..., CifarResNeXt]] = {
    "cifar_resnext29": cifar_resnext29,
    "cifar_resnext29_2x64d": partial(cifar_resnext29, cardinality=2),
}
