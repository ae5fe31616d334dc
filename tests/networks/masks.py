"""A small classifier of digits, and ways in which one hides how weak it is."""

import hashlib
from functools import cache

import torch
from torch import nn

from perturbify import data


@cache
def digits():
    """The digits as pixels in [0, 1], 8×8, and their labels; the test images, balanced."""
    split = data.load("digits").test.interleaved()
    return next(split.batches(len(split)))


def honest():
    """A CNN that knows the digits; the same weights at every call."""
    net = _shape()
    net.load_state_dict(_weights())
    return net.eval()


def _shape():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


@cache
def _weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, split = _shape(), data.load("digits").train
        x, y = next(split.batches(len(split)))
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.state_dict()


class Mask(nn.Module):
    """Any change of what goes in and what comes out of a network."""

    def __init__(self, net, before=lambda x: x, after=lambda z, x: z):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)), x)


class _Rewritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rewrite):
        ctx.rewrite = rewrite
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.rewrite(gradient), None


def backward(net, rewrite):
    """The same answers with another gradient."""
    return Mask(net, lambda x: _Rewritten.apply(x, rewrite))


def rounded(net, levels=7):
    return Mask(net, lambda x: (x * levels).round() / levels)


def cold(net, factor=1e4):
    return Mask(net, after=lambda z, x: factor * z)


def detached(net):
    return Mask(net, lambda x: x.detach())


def wrong_way(net):
    return Mask(net, lambda x: 2 * x.detach() - x)


def loud(z, by=1.0):
    return z + by * torch.randn_like(z)


def noise_where_watched(net, by=1.0):
    return Mask(net, after=lambda z, x: loud(z, by) if torch.is_grad_enabled() else z)


def noise_of_its_own(net, by=0.5):
    return Mask(net, after=lambda z, x: loud(z, by))


def noise_from_the_image(net, by=1.0):
    """The same image always meets the same noise, and another one an ulp away."""

    def before(x):
        seeds = [int.from_bytes(hashlib.sha256(i.detach().numpy().tobytes()).digest()[:4], "big") for i in x]
        made = [torch.randn(i.shape, generator=torch.Generator().manual_seed(s)) for i, s in zip(x, seeds, strict=True)]
        return x + by * torch.stack(made)

    return Mask(net, before)


def by_the_size_of_the_batch(net):
    return Mask(net, after=lambda z, x: z if len(x) > 1 else z.roll(1, 1))


class Remembering(nn.Module):
    """Turns its answer to an image once it has been asked often for all but the same."""

    def __init__(self, net, most=40):
        super().__init__()
        self.net, self.most, self.seen = net, most, []

    def forward(self, x):
        with torch.no_grad():
            small = x.mean(1).flatten(1)
            near = sum((torch.cdist(small, s) < 0.2).sum(1) for s in self.seen)
            self.seen = [*self.seen[-20:], small]
        z = self.net(x)
        return torch.where((torch.zeros(len(x)) + near > self.most)[:, None], z.roll(1, 1), z)


class Tired(nn.Module):
    """Answers at random once it has been asked often."""

    def __init__(self, net, after=30):
        super().__init__()
        self.net, self.after, self.calls = net, after, 0

    def forward(self, x):
        self.calls += 1
        z = self.net(x)
        return z if self.calls < self.after else z.flip(1)
