"""What a network computes: outputs and gradients under a seed, with the noise or without."""

import torch
from torch.utils import _pytree as pytree

import perturbify


def seeded(network, x, seed=5):
    torch.manual_seed(seed)
    with torch.no_grad():
        return network(x)


def equal(a, b):
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert len(left) == len(right) > 0
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(left, right, strict=True))


def alive(network, x):
    """Whether two runs differ, in every output."""
    with torch.no_grad():
        one, two = (pytree.tree_leaves(network(x)) for _ in range(2))
    return all(a.isfinite().all() and not torch.equal(a, b) for a, b in zip(one, two, strict=True))


def silent(network, x, seed=5):
    with perturbify.noise(network, enabled=False):
        return seeded(network, x, seed)


def loss_of(output):
    return sum(leaf.float().square().mean() for leaf in pytree.tree_leaves(output))


def gradients(network, x, seed=5):
    network.zero_grad()
    torch.manual_seed(seed)
    loss_of(network(x)).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def thetas(network):
    return {name: p for name, p in network.named_parameters() if name.endswith(".theta")}


def scale(network, factor):
    """Changes every weight and every θ."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(factor)
