"""Networks that say how their gradients are computed."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from networks.plain import conv


class Checkpointing(nn.Module):
    def __init__(self, reentrant=False):
        super().__init__()
        self.reentrant = reentrant
        self.gradient_checkpointing = True
        self.stem = conv()
        self.blocks = nn.ModuleList(nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2))
        self.tail = nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
            else:
                x = block(x)
        return checkpoint_sequential(self.tail, 2, x, use_reentrant=self.reentrant) if self.training else self.tail(x)


class ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.weight * gradient, None


class ReverseGradientBare(ReverseGradient):
    """Its forward computes nothing that a graph could record."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x


class RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s * (1 + x * (1 - s)))


class OwnGradients(nn.Module):
    """Domain-adversarial: the sign of a gradient turns on the way back."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.features, self.domain = conv(), conv(4, 2, 1)

    def forward(self, x):
        h = self.features(x)
        args = (h, 0.5) if issubclass(self.function, ReverseGradient) else (h,)
        return self.domain(self.function.apply(*args))


class ConvolvingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight.sign())

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return (
            nn.grad.conv2d_input(x.shape, weight.sign(), gradient),
            nn.grad.conv2d_weight(x, weight.shape, gradient),
        )


class BinaryWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.weight = conv(), nn.Parameter(torch.randn(2, 4, 3, 3))

    def forward(self, x):
        return ConvolvingFunction.apply(self.stem(x), self.weight)
