"""Networks with the habits of the people who write them."""

import torch
from torch import nn

from networks.plain import conv


class OwnTrain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = conv(), nn.BatchNorm2d(4), conv(4, 4)
        self.drop = nn.Dropout(0.5)
        self.aux = conv(4, 2, 1)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        self.conv1.requires_grad_(False)
        return self

    def forward(self, x):
        x = self.drop(self.conv2(self.norm(self.conv1(x))))
        return (x, self.aux(x)) if self.training else x


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv()
        self.convs = [conv(4, 4), conv(4, 4)]  # where nn.Module does not look

    def forward(self, x):
        x = self.stem(x)
        for convolve in self.convs:
            x = convolve(x)
        return x


class RegisteredAndListed(nn.Module):
    """A list that only remembers what is registered elsewhere."""

    def __init__(self):
        super().__init__()
        self.order = []
        for i in range(2):
            block = nn.Sequential(conv(3, 3), nn.ReLU())
            self.add_module(f"block{i}", block)
            self.order.append(block)
        self.last = [self.order[-1][0]]

    def forward(self, x):
        for block in self.order:
            x = block(x)
        return self.last[0](x)


class OwnNorm(nn.Module):
    def __init__(self, channels, momentum=0.1):
        super().__init__()
        self.momentum = momentum
        self.gain, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.mean = (1 - self.momentum) * self.mean + self.momentum * mean
                self.var.lerp_(var, self.momentum)
                self.steps += 1
        else:
            mean, var = self.mean, self.var
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * self.gain[:, None, None] + self.shift[:, None, None]


class OwnConvNorm(OwnNorm):
    """The same, with the convolution inside: torch.fx must not take its buffers for constants."""

    def __init__(self, inside, channels):
        super().__init__(channels)
        self.conv = conv(inside, channels)

    def forward(self, x):
        return super().forward(self.conv(x))


class WeightStandardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, w, self.bias)


class KeepsLoss(nn.Module):
    """Leaves a loss behind in an attribute, as many VAEs and mixtures of experts do."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.penalty, self.history = conv(), conv(4, 2, 1), 0.0, []

    def forward(self, x):
        h = self.conv(x)
        self.penalty = h.square().mean()
        self.history.append(h.shape[0])
        return self.head(h)


class KeepsFeatures(nn.Module):
    """Taps its own layers with forward hooks."""

    def __init__(self):
        super().__init__()
        self.conv, self.body = conv(), nn.Sequential(conv(4, 4), nn.ReLU())
        self.features = {}
        self.conv.register_forward_hook(self.keep)
        self.body.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.features[type(module).__name__] = output

    def forward(self, x):
        return self.body(self.conv(x))


class OnItsDevice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x):
        parameter = next(self.parameters())
        x = x.to(device=parameter.device, dtype=parameter.dtype)
        return self.conv(x + torch.arange(x.shape[-1], device=parameter.device) * 0.1)


class Autocasting(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = conv(), conv(4, 4)

    def forward(self, x):
        x = self.stem(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.body(x)
        return x.float()


class OwnCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def __call__(self, images):
        return super().__call__(images * 2 - 1)

    def forward(self, x):
        return self.conv(x)
