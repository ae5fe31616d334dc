"""Networks whose weights are shared, tied, computed, listed or read by others."""

import torch
import torch.nn.functional as F
from timm.layers import StdConv2d
from torch import nn
from torch.utils.checkpoint import checkpoint

from networks.plain import conv


class Small(nn.Module):
    """Two convolutions, a norm and a linear layer; how the convolutions run is for subclasses to say."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.fc = conv(), nn.BatchNorm2d(4), conv(4, 4), nn.Linear(4, 3)

    def features(self, x):
        return self.b(self.norm(self.a(x)).relu())

    def forward(self, x):
        return self.fc(self.features(x).relu().mean((2, 3)))


class Recomputing(Small):
    reentrant = False

    def forward(self, x):
        # Reentrant checkpointing warns where its input needs no gradient.
        y = checkpoint(self.features, x, use_reentrant=self.reentrant) if x.requires_grad else self.features(x)
        return self.fc(y.mean((2, 3)))


class RecomputingReentrantly(Recomputing):
    reentrant = True


class Standardised(Small):
    def __init__(self):
        super().__init__()
        self.b = StdConv2d(4, 4, 3, padding=1)


class Tied(nn.Module):
    """A module by two names, a weight in two modules, and one that is used without its module."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 3), conv(3, 3), conv(3, 3)
        self.again, self.b.weight = self.a, self.c.weight

    def forward(self, x):
        x = self.again(self.a(x))
        return F.conv2d(self.c(self.b(x)), self.c.weight, padding=1)


class Attending(nn.Module):
    """Layers that read the weights of others, by kernels that see no modules."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer = conv(3, 8), nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.attend, self.token = nn.MultiheadAttention(8, 2, batch_first=True), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        x = self.layer(self.stem(x).flatten(2).mT)
        return self.attend(self.token.expand(len(x), -1, -1), x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.lstm, self.cell, self.fc = conv(), nn.LSTM(4, 4), nn.GRUCell(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.lstm(self.stem(x).mean(3).permute(2, 0, 1))[0]
        return self.fc(self.cell(x[-1], x[0]))


class Gained(nn.Sequential):
    """A container with a parameter of its own."""

    def __init__(self):
        super().__init__(conv(), nn.ReLU(), conv(4, 4))
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return super().forward(x) * self.gain


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.inner = conv(), nn.Sequential(Gained(), nn.BatchNorm2d(4))
        self.inner[0][0] = conv(4, 4)
        self.scales = nn.ParameterList([torch.rand(4, 1, 1) for _ in range(2)])
        self.shifts = nn.ParameterDict({"up": torch.rand(4, 1, 1)})

    def forward(self, x):
        x = self.inner(self.conv(x) * self.scales[0] + self.shifts["up"])
        return sum(x * scale for scale in self.scales)
