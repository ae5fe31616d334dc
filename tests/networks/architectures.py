"""Architectures that are more than a chain of layers."""

import torch
import torch.nn.functional as F
from timm.layers import CondConv2d
from torch import nn

from networks.plain import conv


class Containers(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList([conv(3, 3), nn.BatchNorm2d(3)]) for _ in range(2))
        self.branches = nn.ModuleDict({"near": conv(3, 4, 1), "far": conv(3, 4, 3, dilation=1)})
        self.scales = nn.ParameterDict({"near": nn.Parameter(torch.ones(1)), "far": nn.Parameter(torch.ones(1))})

    def forward(self, x):
        for i, (convolve, norm) in enumerate(self.stages):
            x = x + norm(convolve(x)) * (i + 1)
        return sum(self.scales[k] * branch(x) for k, branch in self.branches.items())


class DoubleConv(nn.Sequential):
    def __init__(self, a, b):
        super().__init__(conv(a, b, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([DoubleConv(3, 4), DoubleConv(4, 6)])
        self.bottom = DoubleConv(6, 8)
        self.up = nn.ModuleList([nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ConvTranspose2d(6, 4, 2, stride=2)])
        self.merge = nn.ModuleList([DoubleConv(12, 6), DoubleConv(8, 4)])
        self.head = conv(4, 2, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = up(x, output_size=skip.shape[-2:])
            missing = skip.shape[-1] - x.shape[-1]
            x = merge(torch.cat([skip, F.pad(x, [missing // 2, missing - missing // 2])], dim=1))
        return self.head(x)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(conv(), nn.ReLU(), conv(4, 4))
        self.twin = self.encoder  # the same module by a second name
        self.tied = conv()
        self.tied.weight = self.encoder[0].weight  # and another with the same weights

    def forward(self, a, b):
        a, b = self.encoder(a) + self.tied(a), self.twin(b)
        return F.pairwise_distance(a.flatten(1), b.flatten(1))


class ConvLSTMCell(nn.Module):
    def __init__(self, inside, hidden):
        super().__init__()
        self.hidden = hidden
        self.gates = conv(inside + hidden, 4 * hidden)

    def init_hidden(self, n, size):
        return tuple(torch.zeros(n, self.hidden, *size, device=self.gates.weight.device) for _ in range(2))

    def forward(self, x, state):
        h, c = state
        i, f, o, g = torch.split(self.gates(torch.cat([x, h], dim=1)), self.hidden, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class ConvLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = ConvLSTMCell(3, 4), conv(4, 2, 1)

    def forward(self, frames):
        n, t, _, h, w = frames.size()
        state, seen = self.cell.init_hidden(n, (h, w)), []
        for i in range(t):
            state = self.cell(frames[:, i], state)
            seen.append(self.head(state[0]))
        return torch.stack(seen, dim=1), state


class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = conv(), conv(4, 4)
        self.exits = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 5)])

    def forward(self, x):
        bright = x.mean() > 0.9
        x = self.stem(x)
        if not self.training and bright:
            return self.exits[0](x.mean((2, 3)))
        return self.exits[1](self.body(x.relu()).mean((2, 3)))


class OwnWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.zeros(4))
        self.up = nn.Parameter(torch.randn(4, 2, 2, 2))
        self.register_buffer("sobel", torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).expand(2, 1, 3, 3).clone())

    def forward(self, x):
        std, mean = torch.std_mean(self.kernel, dim=(1, 2, 3), keepdim=True)
        x = F.conv2d(x, (self.kernel - mean) / (std + 1e-5), self.bias, stride=2, padding=1)
        x = F.conv_transpose2d(input=x, weight=self.up, stride=2)
        return F.conv2d(x, self.sobel, groups=2)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(4, 4, 2, stride=2))
        self.to_mu, self.to_logvar = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2, stride=2),
            nn.SiLU(),
            nn.ConvTranspose2d(4, 3, 3, 2, padding=1, output_padding=1),
        )

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x):
        h = self.encode(x)
        mu, logvar = self.to_mu(h), self.to_logvar(h)
        z = self.reparameterize(mu, logvar) if self.training else mu
        return self.decode(z).sigmoid(), mu, logvar


class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, 4, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=2**i) for i in range(3))
        self.skip = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))
        self.up = nn.ConvTranspose1d(4, 1, 2, stride=2)

    def forward(self, wave):
        x, out = self.stem(wave), 0
        for dilated, skip in zip(self.dilated, self.skip, strict=True):
            filtered, gate = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, dim=1)
            y = skip(torch.tanh(filtered) * torch.sigmoid(gate))
            x, out = x + y, out + y
        return self.up(F.avg_pool1d(out, 2))


class Spectrogram(nn.Module):
    def __init__(self, n_fft=16):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.conv, self.mask = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, wave):
        wave = wave.squeeze(1)
        spectrum = torch.stft(wave, self.n_fft, self.n_fft // 2, window=self.window, return_complex=True)
        parts = torch.view_as_real(spectrum).permute(0, 3, 1, 2)
        mask = self.mask(F.relu(self.conv(parts))).permute(0, 2, 3, 1)
        masked = spectrum * torch.view_as_complex(mask.contiguous())
        return torch.istft(masked, self.n_fft, self.n_fft // 2, window=self.window), masked


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.route, self.cond = conv(), nn.Linear(4, 3), CondConv2d(4, 5, 3, padding=1, num_experts=3)

    def forward(self, x):
        x = self.stem(x)
        return self.cond(x, self.route(x.mean((2, 3))).sigmoid())
