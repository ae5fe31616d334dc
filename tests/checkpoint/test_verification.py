"""``perturbify.verify``: what a file proves, and what it leaves open."""

from pathlib import Path

import pytest
import torch
from networks.golden import make
from networks.saved import Own, own

import perturbify
from perturbify.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden"


def test_a_sealed_file_with_live_noise_is_proved(good):
    found = perturbify.verify(good, model=Own())
    assert (found.outcome, found.status, found.sealed) == ("proved", 0, True)
    assert "noise  alive at all of them" in str(found)


def test_without_the_network_only_the_seal_is_checked(good):
    found = perturbify.verify(good)
    assert (found.outcome, found.status, found.liveness) == ("not proved", 4, None)
    assert "does not say how to build its network, networks.saved.Own" in str(found)


def test_a_format_1_file_has_no_seal():
    found = perturbify.verify(GOLDEN / "1" / "resnet.safetensors")
    assert (found.outcome, found.status, found.sealed) == ("not proved", 4, False)
    assert found.liveness is not None and not found.failures


def test_negligible_noise_counts_as_dead(path):
    net = own()
    net.conv.perturb.theta.data.fill_(1e-30)
    perturbify.save(net, path)
    found = perturbify.verify(path, model=Own())
    assert (found.outcome, found.status) == ("failed", 3)
    assert any("no fresh noise at conv" in said for said in found.failures)


def test_zero_weight_noise_counts_as_dead(path):
    net = perturbify.load(GOLDEN / "2" / "pni.safetensors", model=make("pni"))
    for _, site in perturbify.perturbations(net):
        site.theta.data.zero_()
    perturbify.save(net, path)
    assert perturbify.verify(path, model=make("pni")).status == 3


def test_a_baseline_claims_no_noise(path):
    perturbify.save(perturbify.wrap(Own(), None, example_input=torch.rand(2, 3, 6, 6)), path)
    found = perturbify.verify(path, model=Own())
    assert found.outcome == "proved" and "noise  none: a baseline" in str(found)


def test_one_changed_byte_is_reported(good, path):
    whole = bytearray(good.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        perturbify.verify(path, model=Own())
