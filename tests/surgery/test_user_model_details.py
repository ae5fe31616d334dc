"""Networks as their owners write them, and what each of them in particular must still do."""

import copy

import pytest
import torch
from networks.architectures import EarlyExit
from networks.gradients import Checkpointing
from networks.habits import KeepsFeatures, KeepsLoss, OwnTrain
from networks.modified import lora
from networks.plain import IMAGES, Plain
from torch import nn

import perturbify
from perturbify.surgery.observe import ConvolutionCount

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # of reentrant checkpointing
]


def test_a_lazy_convolution_that_was_never_run():
    source = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())
    wrapped = perturbify.wrap(source, example_input=IMAGES)
    assert source[0].has_uninitialized_params()
    assert not torch.equal(wrapped(IMAGES), wrapped(IMAGES))
    source.load_state_dict(perturbify.unwrap(wrapped).state_dict())
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(IMAGES), source(IMAGES))


def test_compiling_and_wrapping_in_place():
    for network in (Plain(), nn.Sequential(Plain())):
        for module in network.modules():
            module.compile(backend="eager")
        with torch.no_grad():
            network.eval()(IMAGES)
        wrapped = perturbify.wrap(network, example_input=IMAGES, inplace=True)
        assert not torch.equal(wrapped(IMAGES), wrapped(IMAGES))


def test_an_early_exit_that_wrapping_did_not_see():
    bright = torch.ones_like(IMAGES)
    wrapped = perturbify.wrap(EarlyExit(), example_input=IMAGES).eval()
    source = perturbify.unwrap(wrapped)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(bright), source(bright))
        assert not torch.equal(wrapped(IMAGES), wrapped(bright))
    assert not torch.equal(wrapped(bright), wrapped(bright))
    early = perturbify.wrap(EarlyExit(), example_input=bright).eval()
    assert {s.name: s.modes for s in early.surgery.plan.sites} == {"stem": "both", "body": "train"}
    assert not torch.equal(early(IMAGES), early(IMAGES))


def test_attributes_set_by_forward_are_set_when_wrapped():
    source = KeepsLoss()
    wrapped = perturbify.wrap(source, example_input=IMAGES)
    assert wrapped.history == []
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(IMAGES), source(IMAGES))
    assert torch.equal(wrapped.penalty, source.penalty)
    assert wrapped.history == source.history == [2]
    wrapped.penalty.backward()
    assert wrapped.conv.weight.grad is not None


def test_hooks_still_work_in_the_wrapped_network():
    source = KeepsFeatures()
    wrapped = perturbify.wrap(source, example_input=IMAGES)
    for network in (wrapped, copy.deepcopy(wrapped)):
        with perturbify.noise(network, enabled=False):
            assert torch.equal(network(IMAGES), source(IMAGES))
        assert set(network.features) == {"Conv2d", "Sequential"}
        assert all(torch.equal(value, source.features[name]) for name, value in network.features.items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_still_recomputes(reentrant):
    source = Checkpointing(reentrant)
    wrapped = perturbify.wrap(source, example_input=IMAGES.clone().requires_grad_())
    counts = []
    for network in (source, wrapped):
        with ConvolutionCount() as count:
            network(IMAGES.clone().requires_grad_()).sum().backward()
        counts.append(count.total)
    assert counts[1] >= counts[0] > 5


def test_freezing_layers_in_train_leaves_the_noise_learnable():
    wrapped = perturbify.wrap(OwnTrain(), example_input=IMAGES).eval().train()
    assert not wrapped.conv1.weight.requires_grad
    assert all(p.theta.requires_grad for _, p in perturbify.perturbations(wrapped))


def test_lora_stays_frozen_and_merges_after_unwrapping():
    wrapped = perturbify.wrap(lora(), example_input=IMAGES).eval()
    owners = {s.owner.rpartition("conv1.")[2] for s in wrapped.surgery.plan.sites if ".conv1." in s.owner}
    assert owners == {"base_layer", "lora_A.default", "lora_B.default"}
    trainable = {n for n, p in wrapped.named_parameters() if p.requires_grad}
    assert {n for n in trainable if "lora_" not in n} == {
        n for n, _ in wrapped.named_parameters() if n.endswith("base_layer.perturb.theta")
    }
    bare = perturbify.unwrap(wrapped)
    want = bare(IMAGES)
    torch.testing.assert_close(bare.merge_and_unload()(IMAGES), want)
