"""Networks as their owners write them, that cannot be wrapped: each is refused in one sentence that helps."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from networks.gradients import BinaryWeights, ReverseGradientBare
from networks.habits import InAList
from networks.modified import CompiledMethod, Lazy, scripted
from networks.plain import IMAGES, Plain, conv
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import ParityError, PerturbifyError, SurgeryError, TraceError

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # of reentrant checkpointing
]


def refusal(network, error, example=IMAGES, **settings):
    """The sentence of an error, which must be one that a person can act on."""
    with pytest.raises(error) as caught:
        perturbify.wrap(network, PerturbConfig(**settings), example_input=example)
    assert isinstance(caught.value, PerturbifyError)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_lazy_network_asks_for_a_first_run():
    sentence = refusal(Lazy(), PerturbifyError)
    assert "Lazy" in sentence
    assert "once" in sentence
    assert len(sentence) < 250


def test_convolutions_in_a_python_list_are_refused():
    sentence = refusal(InAList(), TraceError)
    assert "Conv2d" in sentence
    assert "nn.ModuleList" in sentence


class Scaled(BinaryWeights):
    """It goes on after its custom function, so that torch.fx would have to look into that."""

    def forward(self, x):
        return super().forward(x) * 2


class Reversing(BinaryWeights):
    """It goes on with a function that computes nothing and has a gradient of its own, which torch.fx does not see."""

    def forward(self, x):
        return ReverseGradientBare.apply(F.conv2d(self.stem(x), self.weight), 1.0) * 2


def test_custom_autograd_functions_keep_their_gradient_or_fail():
    source = BinaryWeights()
    wrapped = perturbify.wrap(source, example_input=IMAGES)
    assert not torch.equal(wrapped(IMAGES), wrapped(IMAGES))
    with perturbify.noise(wrapped, False):
        for network in (source, wrapped):
            network(IMAGES).sum().backward()
    assert torch.equal(wrapped.weight.grad, source.weight.grad)
    assert "torch.fx, which cannot trace it" in refusal(Scaled(), TraceError)
    assert "the gradients differ" in refusal(Reversing(), ParityError)
    plan = perturbify.plan(Scaled(), PerturbConfig(exclude=("",)), example_input=IMAGES)
    assert [s.name for s in plan.sites] == ["stem"]
    assert [s.reason for s in plan.skipped] == ["in exclude"]


@pytest.mark.parametrize(
    "make", [scripted, lambda m: torch.jit.trace(m, torch.rand(2, 4, 8, 8))], ids=["script", "trace"]
)
def test_a_scripted_convolution_inside_is_refused(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = nn.Sequential(conv(), make(nn.Sequential(conv(4, 4), nn.ReLU())))
        sentence = refusal(network, TraceError)
    assert sentence.startswith("1")
    assert "scripted from" in sentence


def test_a_scripted_network_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "scripted" in refusal(scripted(Plain()), SurgeryError)


@pytest.mark.parametrize("run", [False, True], ids=["never run", "run"])
def test_compiled_convolutions_are_refused(run):
    """Their compiled code is cached without the noise, and does not look whether a hook came later."""
    inside = nn.Sequential(conv(), torch.compile(nn.Sequential(nn.ReLU(), conv(4, 4)), backend="eager"))
    for network, culprit in ((inside, "1"), (torch.compile(Plain(), backend="eager"), "OptimizedModule")):
        if run:
            with torch.no_grad():
                network.eval()(IMAGES)
        sentence = refusal(network, SurgeryError)
        assert sentence.startswith(f"{culprit} is compiled")
        assert "_orig_mod" in sentence


def test_a_convolution_in_a_compiled_method_is_refused():
    source = CompiledMethod().eval()
    with torch.no_grad():
        source(IMAGES)
    assert refusal(source, SurgeryError).startswith("CompiledMethod is compiled")
