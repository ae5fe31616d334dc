"""Forwards that torch.fx could not follow, and calls whose number changes: a convolution inside does not mind."""

import copy
import pickle
import random
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

import perturbify
from perturbify import Normalize, PerturbConfig
from perturbify.checks.liveness import examine
from perturbify.errors import SurgeryError, TraceError

X = torch.rand(2, 3, 8, 8)


class Branching(nn.Module):
    """Control flow on values."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        return y if y.mean() > 0 else -y


class Drawing(Branching):
    """A draw in Python, which a graph would freeze."""

    def forward(self, x):
        y = self.conv(x)
        return y if self.training and random.random() < 0.5 else y * 2


class Frozen(Branching):
    """Gradients turned off inside."""

    def forward(self, x):
        with torch.no_grad():
            y = self.conv(x)
        return y * 2


class Repeating(nn.Module):
    """As many calls as an argument says."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, times=3):
        for _ in range(times):
            x = self.conv(x)
            x = x if x.mean() > 0 else -x
        return x


def assert_right(wrapped, source, x=X):
    """Alive with the noise on, the source with it off, as itself and as a copy."""
    source.eval(), wrapped.eval()
    live = examine(wrapped, x)
    assert live.sites and not live.failures, live
    for version in (wrapped, copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert not torch.equal(version(x), version(x))
        with perturbify.noise(version, enabled=False):
            assert torch.equal(version(x), source(x))
    plain = perturbify.unwrap(wrapped)
    assert type(plain) is type(source)
    assert plain.state_dict().keys() == source.state_dict().keys()
    assert torch.equal(plain(x), source(x))
    assert torch.equal(plain(x), plain(x))


@pytest.mark.parametrize("kind", [Branching, Drawing, Frozen])
def test_operations_far_from_a_convolution_do_not_matter(kind):
    source = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(kind()), nn.Conv2d(4, 2, 1))
    wrapped = perturbify.wrap(source, example_input=X)
    assert [(s.name, s.way) for s in wrapped.surgery.plan.sites] == [
        ("0", "output"),
        ("1.0.conv", "output"),
        ("2", "output"),
    ]
    assert_right(wrapped, source)
    alone = kind()
    assert_right(perturbify.wrap(alone, example_input=X), alone)


def test_each_call_has_its_own_theta():
    source = Repeating()
    wrapped = perturbify.wrap(source, example_input=X).eval()
    names = ["conv", "conv#1", "conv#2"]
    assert [s.name for s in wrapped.surgery.plan.sites] == names
    with torch.no_grad():
        for number, (_, perturbation) in enumerate(perturbify.perturbations(wrapped)):
            perturbation.theta.fill_(number)
    seen = []
    for _, perturbation in perturbify.perturbations(wrapped):
        perturbation.register_forward_hook(lambda m, i, o: seen.append(m.theta[0, 0, 0].item()))
    wrapped(X)
    wrapped(X)
    assert seen == [0, 1, 2, 0, 1, 2]


def test_extra_calls_need_a_shared_theta():
    source = Repeating()
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=X)
    assert wrapped(X, times=2).shape == X.shape
    with pytest.raises(SurgeryError, match=r'conv#3: this module is called more often.*theta_per="module"'):
        wrapped(X, times=4)
    assert wrapped(X).shape == X.shape  # counting starts anew
    shared = perturbify.wrap(source, PerturbConfig(grain="channel", theta_per="module"), example_input=X)
    assert shared(X, times=9).shape == X.shape


class Choosing(nn.Module):
    """A convolution that only some inputs reach."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.a(x) if x.mean() > 0 else self.b(x)


def test_an_unseen_branch_never_runs_without_noise():
    wrapped = perturbify.wrap(nn.Sequential(Choosing()), example_input=X)
    wrapped(X)
    with pytest.raises(SurgeryError, match=r"0\.b was not called when the network was wrapped.*exclude="):
        wrapped(-X)
    without = perturbify.wrap(nn.Sequential(Choosing()), PerturbConfig(exclude=("0.b",)), example_input=X)
    assert torch.equal(without(-X), without(-X))


def test_activation_checkpointing_repeats_the_same_noise():
    class Checkpointed(Branching):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    source = nn.Sequential(nn.Conv2d(3, 3, 1), Checkpointed())
    wrapped = perturbify.wrap(source, example_input=X)
    gradients = []
    for network in (wrapped, perturbify.wrap(nn.Sequential(source[0], Branching()), example_input=X)):
        network.load_state_dict(wrapped.state_dict())
        torch.manual_seed(0)
        network(X).sum().backward()
        gradients.append(network.get_submodule("1.conv.perturb").theta.grad)
    assert torch.equal(*gradients)


def test_a_submodule_called_alone():
    wrapped = perturbify.wrap(nn.Sequential(nn.Conv2d(3, 3, 1), Branching()), example_input=X)
    block = wrapped.get_submodule("1")
    assert not torch.equal(block(X), block(X))
    repeating = perturbify.wrap(nn.Sequential(Repeating()), PerturbConfig(grain="channel"), example_input=X)
    seen = []
    for name, perturbation in perturbify.perturbations(repeating):
        perturbation.register_forward_hook(lambda *_, name=name: seen.append(name))
    repeating[0](X)  # its calls are counted from its own start
    repeating[0].conv(X)  # by itself, it is the first
    assert seen == ["0.conv", "0.conv#1", "0.conv#2", "0.conv"]


def test_checkpointed_parts_with_several_calls_need_shared_theta():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.part = Repeating(), Repeating()
            self.part.conv = self.first.conv

        def forward(self, x):
            return checkpoint(self.part, self.first(x), use_reentrant=False)

    for theta_per, works in (("call", False), ("module", True)):
        wrapped = perturbify.wrap(Checkpointed(), PerturbConfig(theta_per=theta_per), example_input=X)
        out = wrapped(X).sum()
        if works:
            out.backward()
        else:
            with pytest.raises(SurgeryError, match=r'the current call is unknown.*theta_per="module"'):
                out.backward()


def test_state_kept_in_python_attributes():
    class Remembering(Branching):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            return self.conv(x) * self.steps

    wrapped = perturbify.wrap(Remembering(), example_input=X)
    assert_right_once(wrapped, Remembering())


def assert_right_once(wrapped, source):
    source.load_state_dict(perturbify.unwrap(wrapped).state_dict())
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(X), source(X))
        assert torch.equal(wrapped(X), source(X))


def test_a_custom_train_method():
    class HalfFrozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x):
            return self.norm(self.conv(x))

    wrapped = perturbify.wrap(HalfFrozen(), example_input=X)
    assert wrapped.train().training
    assert not wrapped.norm.training


def test_a_scripted_convolution_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch advise against scripting
        scripted = torch.jit.script(nn.Conv2d(3, 3, 1))
    with pytest.raises(TraceError, match="0 is scripted"):
        perturbify.wrap(nn.Sequential(scripted, nn.Conv2d(3, 4, 1)), example_input=X)


class Hidden(nn.Module):
    """Functional convolutions, of a fixed and of a learned filter, in a forward that torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))
        self.register_buffer("blur", torch.ones(3, 1, 3, 3) / 9)
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = F.conv2d(F.conv2d(x, self.blur, groups=3), self.weight)
        return self.conv(y if y.mean() > 0 else -y)


def test_a_functional_convolution_that_cannot_be_reached():
    with pytest.raises(TraceError, match=r"The network \(Hidden\) does more in its forward.*exclude="):
        perturbify.wrap(Hidden(), example_input=X)
    plan = perturbify.plan(Hidden(), PerturbConfig(exclude=("",)), example_input=X)
    assert [s.name for s in plan.sites] == ["conv"]
    assert [s.reason for s in plan.skipped] == ["fixed filter, nothing learned", "in exclude"]


@pytest.mark.parametrize("name", ["efficientvit_b0", "mobilevit_xxs", "tiny_vit_5m_224"])
def test_timm_models_that_branch_on_shapes(name):
    source = timm.create_model(name, num_classes=3)
    size = 224 if name.endswith("224") else 64
    x = torch.rand(2, 3, size, size)
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=x)
    assert_right(wrapped, source, x)


@pytest.mark.slow
def test_raft_and_its_recurrent_calls():
    source = torchvision.models.get_model("raft_small")
    frames = (torch.rand(2, 3, 128, 128), torch.rand(2, 3, 128, 128))
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=frames).eval()
    plan = wrapped.surgery.plan
    assert len(plan.sites) > len({s.owner for s in plan.sites})
    with torch.no_grad(), pytest.raises(SurgeryError, match="called more often"):
        wrapped(*frames, num_flow_updates=13)


@pytest.mark.slow
def test_a_detector_that_trains_only_with_targets():
    source = torchvision.models.get_model("fasterrcnn_mobilenet_v3_large_320_fpn", weights_backbone=None)
    images = [torch.rand(3, 96, 128), torch.rand(3, 128, 96)]
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=(images,))
    boxes = {"boxes": torch.tensor([[8.0, 8.0, 64.0, 64.0]]), "labels": torch.tensor([1])}
    assert "train mode" in wrapped.surgery.plan.notes[0]
    losses = wrapped.train()(images, [boxes, boxes])
    assert all(value.isfinite() for value in losses.values())


def test_a_sequential_normalises_only_once():
    """It runs everything it holds, and the normalisation is one of these."""
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    normalize = Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    wrapped = perturbify.wrap(source, example_input=X, normalize=normalize)
    with perturbify.noise(wrapped, False):
        assert torch.equal(wrapped(X), source(normalize(X)))
    assert "normalize.mean" in wrapped.state_dict()
    assert [type(m) for m in wrapped] == [type(m) for m in wrapped.children()][: len(wrapped)]
    assert (len(wrapped), isinstance(wrapped[0], nn.Conv2d), type(wrapped[:2])) == (3, True, nn.Sequential)
    assert not torch.equal(wrapped[:2](X), wrapped[:2](X))
