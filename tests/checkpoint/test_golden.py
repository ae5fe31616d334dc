"""Files that earlier versions wrote load as what they were, with the noise alive."""

from pathlib import Path

import pytest
import torch
from networks.golden import MAKERS, make
from safetensors.torch import load_file

import perturbify

FOLDER = Path(__file__).parent / "golden"
WANTED = load_file(FOLDER / "outputs.safetensors")
"""One batch, ``x``, and what each network gave for it with its noise off, in eval mode."""


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_of_format_1(name):
    path, x = FOLDER / f"{name}.safetensors", WANTED["x"]
    network = perturbify.load(path, model=make(name))
    stored = load_file(path)
    source = make(name).eval()
    source.load_state_dict({k: v for k, v in stored.items() if not k.endswith(".theta") and "normalize" not in k})
    pixels = network.normalize(x) if network.surgery.normalizes else x
    with torch.no_grad(), perturbify.noise(network, enabled=False):
        assert torch.equal(network(x), source(pixels))
        torch.testing.assert_close(network(x), WANTED[name])
    for key, value in stored.items():
        assert torch.equal(network.state_dict()[key], value), key
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
    assert {s.path for s in network.surgery.plan.sites} == {k[:-6] for k in stored if k.endswith(".theta")}
