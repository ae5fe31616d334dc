"""Wide ResNets for 32×32 images: Zagoruyko, Komodakis, "Wide Residual Networks" (BMVC 2016), table 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.errors import ModelError
from perturbify.zoo.cifar_network import CifarNetwork


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU and a 3×3 convolution, twice, plus the shortcut.

    Where the channels or the size change, the shortcut is a 1×1 convolution of the first ReLU's output; elsewhere it is
    the block's input.
    """

    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(planes_in)
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        changes = stride > 1 or planes_in != planes
        self.shortcut = nn.Conv2d(planes_in, planes, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, planes_in, H, W) to (B, planes, ⌈H/stride⌉, ⌈W/stride⌉)."""
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class CifarWideResNet(CifarNetwork):
    """A 3×3 stem of 16 channels, three stages of pre-activation blocks, BatchNorm, ReLU, pooling, one linear layer.

    Args:
        blocks: Blocks in each stage.
        width: What the stages' 16, 32 and 64 channels are multiplied by.
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A count is not positive.
    """

    def __init__(self, blocks: int, width: int, *, num_classes: int, in_chans: int) -> None:
        super().__init__(num_classes, in_chans)
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        planes_in = 16
        for number, base in enumerate((16, 32, 64), start=1):
            planes, stride = base * width, 1 if number == 1 else 2
            first = PreActivationBlock(planes_in, planes, stride)
            rest = [PreActivationBlock(planes, planes, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            planes_in = planes
        self.bn1 = nn.BatchNorm2d(planes_in)
        self.linear = nn.Linear(planes_in, num_classes)
        self.start_convolutions_()

    def forward(self, x: Tensor) -> Tensor:
        """Maps normalised images (B, in_chans, H, W) to logits (B, num_classes); any H and W."""
        x = self.conv1(x)
        for stage in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(stage)(x)
        return self.linear(F.relu(self.bn1(x)).mean((2, 3)))


def cifar_wrn(depth: int, width: int = 10, *, num_classes: int = 10, in_chans: int = 3) -> CifarWideResNet:
    """Wide ResNet of depth 6n+4 without dropout: three stages of n blocks.

    Args:
        depth: 28 in Learn2Perturb's table 4.
        width: 10 there.
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A setting is outside its range.
    """
    if width < 1:
        raise ModelError(f"width={width} leaves no channels; WRN-28-10 has 10.")
    return CifarWideResNet((depth - 4) // 6, width, num_classes=num_classes, in_chans=in_chans)


NETWORKS: dict[str, Callable[..., CifarWideResNet]] = {"cifar_wrn28_10": partial(cifar_wrn, 28, width=10)}
