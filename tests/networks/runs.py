"""Runs that are killed, and whether two of them came out the same."""

import json

import torch

from perturbify.training import state

TIMES = ("seconds", "images_per_second")


class Killed(BaseException):
    """As good as SIGKILL for what is on disk: nothing in the library may catch it."""


def metrics(folder):
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_run(one, other):
    """Weights, θ, buffers, momenta, and metrics, bit for bit."""
    assert metrics(one.folder) == metrics(other.folder)
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    ours, theirs = state.read(one.folder.state).tensors, state.read(other.folder.state).tensors
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
