"""What must be left as it was found: everything of a network, and every generator of the caller's."""

import random
from contextlib import contextmanager

import numpy as np
import torch

import perturbify


@contextmanager
def untouched(network, draws=False):
    """Asserts that the block changes neither the network nor the caller's generators; of those torch's may move on."""
    before, drawn = everything(network), states()
    yield
    assert_same(before, everything(network))
    assert states()[draws:] == drawn[draws:]


def everything(network):
    """Tensors by value, all else by what it is."""
    tensors = network.state_dict(keep_vars=True)
    grads = {k: p.grad for k, p in network.named_parameters()}
    return {
        "class": type(network),
        "modes": {k: m.training for k, m in network.named_modules()},
        "identities": {k: id(v) for k, v in tensors.items()},
        "learning": {k: p.requires_grad for k, p in network.named_parameters()},
        "grad identities": {k: id(g) for k, g in grads.items()},
        "attributes": {k: set(vars(m)) for k, m in network.named_modules()},
        "hooks": {k: (len(m._forward_hooks), len(m._forward_pre_hooks)) for k, m in network.named_modules()},
        "noise": [(k, p.enabled, p.draw_per) for k, p in perturbify.perturbations(network)],
        "values": {k: v.detach().clone() for k, v in tensors.items()},
        "grads": {k: None if g is None else g.clone() for k, g in grads.items()},
    }


def assert_same(a, b):
    for what, before in a.items():
        after = b[what]
        if what not in ("values", "grads"):
            assert before == after, what
            continue
        for name, tensor in before.items():
            same = after[name] is None if tensor is None else torch.equal(tensor, after[name])
            assert same, (what, name)


def states():
    """Of the three global generators."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
