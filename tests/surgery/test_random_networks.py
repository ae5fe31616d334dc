"""Random small networks: parity, and as many sites as convolutions that an independent count sees."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.checks.liveness import ConvolutionCount


class Block(nn.Module):
    def __init__(self, channels, kernel, stride, groups, residual, norm, repeats, bias):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.again = nn.Conv2d(channels, channels, 1) if repeats else None
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.residual, self.repeats = residual and stride == 1, repeats

    def forward(self, x):
        y = self.norm(self.conv(x))
        for _ in range(self.repeats):
            y = nn.functional.silu(self.again(y))  # no unit is dead: θ has a gradient
        return x + y if self.residual else y


blocks = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from([1, 3, 5]),
        "stride": st.sampled_from([1, 2]),
        "groups": st.sampled_from([1, 2, 4]),
        "residual": st.booleans(),
        "norm": st.booleans(),
        "repeats": st.integers(0, 2),
        "bias": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    layers=st.lists(blocks, min_size=1, max_size=4),
    grain=st.sampled_from(["element", "channel", "layer"]),
    draw_per=st.sampled_from(["sample", "batch"]),
    training=st.booleans(),
    size=st.integers(9, 14),
)
def test_random_networks(layers, grain, draw_per, training, size):
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 4, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    source = nn.Sequential(stem, *(Block(4, **layer) for layer in layers), head).train(training)
    x = torch.rand(3, 3, size, size)
    wrapped = perturbify.wrap(source, PerturbConfig(grain=grain, draw_per=draw_per), example_input=x[:2])
    with ConvolutionCount() as count, torch.no_grad():
        want = source(x)
    with perturbify.noise(wrapped, enabled=False), torch.no_grad():
        assert torch.equal(wrapped(x), want)
    assert len(wrapped.surgery.plan.sites) == count.total == len(list(perturbify.perturbations(wrapped)))
    wrapped(x).square().sum().backward()
    assert all(p.theta.grad.abs().sum() > 0 for _, p in perturbify.perturbations(wrapped))
