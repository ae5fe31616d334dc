"""Files of every format load as what they were, with the noise alive."""

from pathlib import Path

import pytest
import torch
from networks.golden import MAKERS, make
from safetensors.torch import load_file

import perturbify
from perturbify import checkpoint

FOLDER = Path(__file__).parent / "golden"
WANTED = load_file(FOLDER / "outputs.safetensors")
"""One batch, ``x``, and what each network gave for it with its noise off, in eval mode."""


def load(path, name):
    if path.parent.name == "1":
        with pytest.warns(UserWarning, match=f"{name}.safetensors is not sealed"):
            return perturbify.load(path, model=make(name))
    return perturbify.load(path, model=make(name))


@pytest.mark.parametrize("version", ["1", "2", "3"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_file_of_each_format(name, version):
    path, x = FOLDER / version / f"{name}.safetensors", WANTED["x"]
    network = load(path, name)
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


@pytest.mark.parametrize("name", MAKERS)
def test_all_formats_hold_the_same_content(name):
    read = [checkpoint.read(FOLDER / version / f"{name}.safetensors") for version in ("1", "2", "3")]
    assert [(header.format, content.sealed) for header, content in read] == [(1, False), (2, True), (3, True)]
    (first, one), *others = read
    for header, content in others:
        assert header.sites == first.sites and header.settings() == first.settings()
        assert all(torch.equal(value, content.tensors[key]) for key, value in one.tensors.items())
