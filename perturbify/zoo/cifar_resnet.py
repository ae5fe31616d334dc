"""The networks of the Learn2Perturb paper for 32×32 images, named as in public CIFAR checkpoints.

Sources: ResNet-V1, "Deep Residual Learning for Image Recognition" (He et al., 2016), section 4.2;
ResNet-V2(18), the ImageNet ResNet-18 with a 3×3 stem, as Learn2Perturb (CVPR 2020), section 4, uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.errors import ModelError
from perturbify.zoo.cifar_network import CifarNetwork

Padding = Literal["both", "end"]


class PadShortcut(nn.Module):
    """The shortcut without parameters (option A): every second pixel, and zeros for the new channels.

    Args:
        extra: How many channels to add.
        padding: ``"both"`` puts half of them before and half behind (an odd one behind), ``"end"`` all of them behind.
    """

    def __init__(self, extra: int, padding: Padding) -> None:
        super().__init__()
        self.before = extra // 2 if padding == "both" else 0
        self.behind = extra - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C + extra, ⌈H/2⌉, ⌈W/2⌉), as a 3×3 convolution of stride 2 does."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))


class ConvShortcut(nn.Sequential):
    """The shortcut with parameters: a 1×1 convolution of stride 2, then BatchNorm."""

    def __init__(self, planes_in: int, planes: int) -> None:
        super().__init__(nn.Conv2d(planes_in, planes, 1, stride=2, bias=False), nn.BatchNorm2d(planes))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm, plus the shortcut, then ReLU."""

    def __init__(self, planes_in: int, planes: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, planes_in, H, W) to (B, planes, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(CifarNetwork):
    """A 3×3 stem, stages of basic blocks, global average pooling, one linear layer.

    Args:
        blocks: Blocks in each stage.
        planes: Channels of each stage; the stem has those of the first. Every later stage halves the image.
        shortcut: Builds the shortcut of a stage's first block from (channels in, channels out).
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A count is not positive.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        planes: Sequence[int],
        shortcut: Callable[[int, int], nn.Module],
        *,
        num_classes: int,
        in_chans: int,
    ) -> None:
        super().__init__(num_classes, in_chans)
        self.conv1 = nn.Conv2d(in_chans, planes[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.stages = [f"layer{i}" for i in range(1, len(blocks) + 1)]
        planes_in = planes[0]
        for stage, depth, width in zip(self.stages, blocks, planes, strict=True):
            first = (
                BasicBlock(planes_in, width, 1, nn.Identity())
                if stage == "layer1"
                else BasicBlock(planes_in, width, 2, shortcut(planes_in, width))
            )
            rest = [BasicBlock(width, width, 1, nn.Identity()) for _ in range(depth - 1)]
            self.add_module(stage, nn.Sequential(first, *rest))
            planes_in = width
        self.linear = nn.Linear(planes_in, num_classes)
        self.start_convolutions_()

    def forward(self, x: Tensor) -> Tensor:
        """Maps normalised images (B, in_chans, H, W) to logits (B, num_classes); any H and W."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean((2, 3)))


def cifar_resnet(
    depth: int, width: float = 1.0, *, padding: Padding = "both", num_classes: int = 10, in_chans: int = 3
) -> CifarResNet:
    """ResNet-V1 of depth 6n+2: three stages of n blocks, 16, 32 and 64 channels, option A shortcuts.

    Args:
        depth: 20, 32, 44 or 56 in the paper.
        width: What the 16, 32 and 64 channels are multiplied by; 1.5, 2 and 4 in the paper.
        padding: Where the shortcuts put their zero channels: on ``"both"`` sides as in public checkpoints, or at the
            ``"end"`` as in the paper's code.
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A setting is outside its range.
    """
    if padding not in get_args(Padding):
        raise ModelError(f"padding={padding!r} is neither 'both' nor 'end'.")
    planes = [round(width * base) for base in (16, 32, 64)]
    if planes[0] < 1:
        raise ModelError(f"width={width} leaves no channels; the paper uses 1, 1.5, 2 and 4.")
    return CifarResNet(
        [(depth - 2) // 6] * 3,
        planes,
        lambda planes_in, planes: PadShortcut(planes - planes_in, padding),
        num_classes=num_classes,
        in_chans=in_chans,
    )


def cifar_resnet18(*, num_classes: int = 10, in_chans: int = 3) -> CifarResNet:
    """ResNet-V2(18): four stages of two blocks with 64, 128, 256 and 512 channels, shortcuts with parameters.

    The paper calls it V2, although its blocks are post-activation.

    Args:
        num_classes: Outputs.
        in_chans: Channels of the images.

    Raises:
        ModelError: A count is not positive.
    """
    planes = (64, 128, 256, 512)
    return CifarResNet((2, 2, 2, 2), planes, ConvShortcut, num_classes=num_classes, in_chans=in_chans)


NETWORKS: dict[str, Callable[..., CifarResNet]] = {
    **{f"cifar_resnet{depth}": partial(cifar_resnet, depth) for depth in (20, 32, 44, 56)},
    **{
        f"cifar_resnet{depth}_x{width:g}": partial(cifar_resnet, depth, width)
        for depth in (20, 32, 44, 56)
        for width in (1.5, 2.0, 4.0)
    },
    "cifar_resnet18": cifar_resnet18,
}
