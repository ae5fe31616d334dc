"""An attack leaves the network as it found it, also when the network fails in the middle."""

import pytest
import torch
from networks.untouched import untouched
from torch import nn

import perturbify
from perturbify.attacks import Pgd, fgsm, frozen_eval, input_gradient, pgd
from perturbify.errors import ModelError

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


class Net(nn.Module):
    """Fails at forward number ``fails_at``."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.norm1 = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(6, 6, 3)
        self.norm2 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)
        self.forwards, self.fails_at = 0, fails_at

    def forward(self, x):
        self.forwards += 1
        if self.forwards == self.fails_at:
            raise FloatingPointError("in the middle")
        x = self.drop(self.norm1(self.conv1(x)).relu())
        return self.head(self.norm2(self.conv2(x)).relu().mean((2, 3)))


def lived_in(net):
    """A network in mixed modes, some of it frozen, with gradients of a training step that is under way."""
    torch.manual_seed(0)
    net.train()
    net.norm2.eval()
    net.drop.eval()
    net.conv1.weight.requires_grad_(False)
    net.head.weight.grad = torch.randn_like(net.head.weight)
    net.conv2.bias.grad = torch.zeros_like(net.conv2.bias)
    return net


ATTACKS = {
    "gradient": lambda net: input_gradient(net, X, Y, draws=3),
    "fgsm": lambda net: fgsm(net, X, Y),
    "pgd": lambda net: pgd(net, X, Y, Pgd(steps=3)),
    "eot": lambda net: pgd(net, X, Y, Pgd(steps=3, draws=2)),
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "noisy"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "eot"])
def test_nothing_of_the_network_changes(attack, wrapped):
    net = Net()
    if wrapped:
        net.forwards = 0
        net = perturbify.wrap(net, example_input=X)
        next(m for _, m in perturbify.perturbations(net)).enabled = False
    net = lived_in(net)
    with untouched(net, draws=True):
        ATTACKS[attack](net)


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "eot"])
def test_nothing_changes_when_the_network_fails(attack):
    net = lived_in(Net(fails_at=1 if attack == "fgsm" else 3))
    with untouched(net, draws=True), pytest.raises(FloatingPointError, match="in the middle"):
        ATTACKS[attack](net)


def test_the_gradient_alone_changes_no_gradients():
    net = lived_in(Net()).eval()
    with untouched(net, draws=True):
        gradient = ATTACKS["gradient"](net)
    assert gradient.shape == X.shape and gradient.abs().max() > 0


def test_no_gradient_of_a_parameter_is_even_computed():
    net = perturbify.wrap(Net(), example_input=X)
    computed = []
    for name, parameter in net.named_parameters():
        parameter.register_hook(lambda _, name=name: computed.append(name))
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: computed.append(name))
    pgd(net, X, Y, Pgd(steps=2, draws=2))
    assert computed == []


def test_attacks_use_batch_norms_running_statistics():
    seen = []
    net = lived_in(Net())
    for module in net.modules():
        module.register_forward_pre_hook(lambda m, _: seen.append(m.training))
    pgd(net, X, Y, Pgd(steps=2))
    assert seen and not any(seen)


def test_an_attack_works_under_no_grad():
    net = Net()
    with torch.no_grad():
        adversarial = pgd(net, X, Y, Pgd(random_start=False))
        assert not torch.is_grad_enabled()
    assert torch.equal(adversarial, pgd(net, X, Y, Pgd(random_start=False)))


def test_frozen_eval_restores_every_modules_own_mode():
    net = lived_in(Net())
    before = {n: m.training for n, m in net.named_modules()}
    assert len(set(before.values())) == 2
    with pytest.raises(KeyError), frozen_eval(net):
        assert not any(m.training for m in net.modules())
        raise KeyError
    assert {n: m.training for n, m in net.named_modules()} == before


class Rounded(nn.Module):
    """Right, and without a gradient: sums of hard thresholds."""

    def forward(self, x):
        bright = (x > 0.5).float().mean((1, 2, 3))
        return torch.stack([1 - bright, bright, bright * 0], 1)


class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.logits.expand(len(x), 3)


@pytest.mark.parametrize("net", [Rounded(), Deaf()], ids=["rounded", "deaf"])
def test_a_network_without_gradients_is_refused(net):
    with pytest.raises(ModelError, match="has no gradient with respect to its images"):
        pgd(net, X, Y)


def test_inference_mode_is_named():
    with torch.inference_mode(), pytest.raises(ModelError, match="inference_mode"):
        pgd(Net(), X, Y)
