"""wrap works on copies: the source network and the caller's generators are as they were."""

import copy

import pytest
import timm
import torch
from networks.untouched import untouched
from torch import nn

import perturbify
from perturbify import PerturbConfig


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5, drop_rate=0.1).train()
    network.layer1.eval()
    network.conv1[0].weight.requires_grad_(False)
    return network


@pytest.mark.parametrize("operation", [perturbify.plan, perturbify.wrap])
def test_wrapping_leaves_the_source_unchanged(network, operation):
    with untouched(network):
        operation(network)


def test_a_refusal_also_leaves_the_source_unchanged():
    class Counting(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            Counting.calls += 1
            return self.norm(self.conv(x)) * Counting.calls

    for inplace in (False, True):
        network = Counting()
        x = torch.rand(2, 3, 8, 8)
        with untouched(network), pytest.raises(perturbify.PerturbifyError):
            perturbify.wrap(network, example_input=x, inplace=inplace)


def test_the_wrapped_network_keeps_modes_and_flags(network):
    wrapped = perturbify.wrap(network)
    for path, module in network.named_modules():
        assert wrapped.get_submodule(path).training == module.training, path
    for name, parameter in network.named_parameters():
        assert wrapped.get_parameter(name).requires_grad == parameter.requires_grad
        assert wrapped.get_parameter(name) is not parameter
    assert all(p.theta.requires_grad for _, p in perturbify.perturbations(wrapped))


def test_training_the_wrapped_network_leaves_the_source_alone(network):
    wrapped = perturbify.wrap(network).train()
    with untouched(network, draws=True):
        wrapped(torch.rand(2, 3, 160, 160)).sum().backward()
        torch.optim.SGD(wrapped.parameters(), lr=0.1).step()


def test_in_place_keeps_the_modules_and_parameters():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    untouched = copy.deepcopy(network)
    wrapped = perturbify.wrap(network, example_input=torch.rand(2, 3, 8, 8), inplace=True)
    assert wrapped.get_submodule("0") is network[0]
    x = torch.rand(2, 3, 8, 8)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(x), untouched(x))


def test_attributes_are_kept_and_normalisation_is_copied():
    normalize = perturbify.Normalize([0.5] * 3, [0.2] * 3)
    network = nn.Conv2d(3, 4, 3)
    network.class_names = ["a", "b"]
    wrapped = perturbify.wrap(
        network, PerturbConfig(grain="layer"), example_input=torch.rand(2, 3, 8, 8), normalize=normalize
    )
    assert wrapped.class_names == ["a", "b"]
    assert wrapped.normalize is not normalize
    x = torch.rand(2, 3, 8, 8)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(x), network(normalize(x)))
    assert torch.equal(perturbify.unwrap(wrapped)(x), network(x))
