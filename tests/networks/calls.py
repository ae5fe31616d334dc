"""Networks that convolve in every way there is, and where their noise is to stand."""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.ao.nn.intrinsic.qat import ConvBnReLU2d
from torch.ao.quantization import get_default_qat_qconfig
from torchvision.ops import DeformConv2d, deform_conv2d


class Composite(nn.Conv2d):
    """Normalisation and activation inside a convolution's class, as in detectron2."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.norm, self.activation = nn.BatchNorm2d(self.out_channels), nn.ReLU()

    def forward(self, x):
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self.activation(self.norm(x))


class Inner(Composite):
    """The same by way of torch's own forward, which torch.fx could not follow here."""

    def forward(self, x):
        x = super(Composite, self).forward(x)
        return self.activation(self.norm(x if x.mean() < 9 else -x))


class Chunked(nn.Conv3d):
    """A causal convolution over time, a few frames at a time, as in the autoencoders of video models."""

    def forward(self, x):
        frames = range(0, x.shape[2] - 1, 2)
        return torch.cat([super(Chunked, self).forward(x[:, :, i : i + 2]) for i in frames], 2)


class Difference(nn.Module):
    """Central differences: a convolution of a child and one by function."""

    def __init__(self):
        super().__init__()
        self.conv, self.share = nn.Conv2d(3, 4, 3, padding=1, bias=False), 0.7

    def forward(self, x):
        return self.conv(x) - self.share * F.conv2d(x, self.conv.weight.sum((2, 3), keepdim=True))


class Functional(nn.Module):
    """A whole network by functions."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(5, 4, 3, 3))])
        self.scale = 2.0

    def forward(self, x):
        for weight in self.weights:
            x = F.relu(F.conv2d(x, weight)) * self.scale
        return x.mean((2, 3))


class Dynamic(nn.Module):
    """Filters that a linear layer makes for each image, the images side by side in the channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.make = nn.Conv2d(3, 4, 1), nn.Linear(4, 36)

    def forward(self, x):
        x, images = self.stem(x), x.shape[0]
        weight = self.make(x.mean((2, 3))).reshape(-1, 1, 3, 3)
        x = F.conv2d(x.reshape(1, -1, 8, 8), weight, groups=images * 4, padding=1)
        return x.reshape(images, 4, 8, 8).relu()


class Correlation(nn.Module):
    """A Siamese tracker: the feature map of one image is the filter for another's, side by side in the channels."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        filters, x = self.features(x[..., :4, :4]), self.features(x)
        return F.conv2d(x.reshape(1, -1, *x.shape[2:]), filters, groups=x.shape[1] * len(x) // 4)


class Deformable(nn.Module):
    """Deformable convolutions, by module and by function."""

    def __init__(self):
        super().__init__()
        self.offset, self.conv = nn.Conv2d(3, 18, 3, padding=1), DeformConv2d(3, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(2, 3, 3, 3))

    def forward(self, x):
        offset = self.offset(x)
        return self.conv(x, offset).sum(1, keepdim=True) + deform_conv2d(x, offset, self.weight, padding=1)


class Direct(nn.Module):
    """A child's forward, past its hooks."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv.forward(x) + 1


class Optional(nn.Module):
    """Arguments of several kinds, in a forward that goes on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x, mask=None, *, pair=True):
        y = F.conv2d(x, self.weight)
        if mask is not None:
            y = y * mask
        return (y, y.mean()) if pair else {"y": y}


class Repeated(nn.Module):
    """A composite convolution three times."""

    def __init__(self):
        super().__init__()
        self.block = Composite(3, 3, 3, padding=1)

    def forward(self, x):
        return self.block(self.block(self.block(x)))


class Head(nn.Module):
    """One more convolution in eval mode, as in the heads of YOLO."""

    def __init__(self):
        super().__init__()
        self.conv, self.decode = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = self.conv(x)
        return x if self.training else (self.decode(x), x)


def quantized():
    return nn.Sequential(ConvBnReLU2d(3, 4, 3, qconfig=get_default_qat_qconfig()), nn.Flatten())


def shared():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), conv, nn.Sequential(conv))


IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CLIP = torch.rand(2, 3, 6, 8, 8, generator=torch.Generator().manual_seed(0))

CALLS = {
    "composite": (lambda: nn.Sequential(Composite(3, 4, 3)), IMAGES, {"0": "graph"}),
    "inner": (lambda: nn.Sequential(Inner(3, 4, 3)), IMAGES, {"0": "inner"}),
    "chunked": (lambda: nn.Sequential(Chunked(3, 4, 2)), CLIP, {"0": "inner", "0#1": "inner", "0#2": "inner"}),
    "difference": (Difference, IMAGES, {"conv": "output", "(root)": "graph"}),
    "functional": (Functional, IMAGES, {"(root)": "graph", "(root)#1": "graph"}),
    "dynamic": (Dynamic, IMAGES, {"stem": "output", "(root)": "graph"}),
    "correlation": (Correlation, IMAGES, {"features": "output", "features#1": "output", "(root)": "output"}),
    "deformable": (Deformable, IMAGES, {"offset": "output", "conv": "output", "(root)": "graph"}),
    "direct": (Direct, IMAGES, {"conv": "output"}),
    "optional": (Optional, {"x": IMAGES, "pair": True}, {"(root)": "graph"}),
    "repeated": (Repeated, IMAGES, {"block": "graph", "block#1": "graph", "block#2": "graph"}),
    "head": (Head, IMAGES, {"conv": "output", "decode": "output"}),
    "quantized": (quantized, IMAGES, {"0": "inner"}),
    "shared": (shared, IMAGES, {"0": "output", "0#1": "output", "0#2": "output"}),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose1d(3, 4, 3)), IMAGES[..., 0], {"0": "output"}),
    "unbatched": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), IMAGES[0], {"0": "output"}),
    "mask r-cnn's mask head": (
        lambda: torchvision.models.detection.mask_rcnn.MaskRCNNPredictor(3, 4, 2),
        IMAGES,
        {"conv5_mask": "output", "mask_fcn_logits": "output"},
    ),
}
"""By name: the network, its example input, and the way of each site."""
