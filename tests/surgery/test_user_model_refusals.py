"""Networks as their owners write them, that cannot be wrapped: each is refused in one sentence that helps."""

import warnings

import pytest
import torch
from networks.gradients import BinaryWeights
from networks.habits import InAList, OwnCall
from networks.modified import CompiledMethod, Lazy, scripted
from networks.plain import IMAGES, Plain, conv
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import PerturbifyError, SurgeryError, TraceError

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # of reentrant checkpointing
    pytest.mark.filterwarnings("ignore:Using `torch.compile"),  # of the survey's global hooks
]


def refusal(network, error, example=IMAGES, **settings):
    """The sentence of an error, which must be one that a person can act on."""
    with pytest.raises(error) as caught:
        perturbify.wrap(network, PerturbConfig(**settings), example_input=example)
    assert isinstance(caught.value, PerturbifyError)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_lazy_network_that_was_never_run_is_wrapped_or_asks_for_a_run():
    sentence = refusal(Lazy(), PerturbifyError)
    assert "Lazy" in sentence
    assert "once" in sentence
    assert len(sentence) < 250


def test_convolutions_in_a_python_list_are_refused():
    sentence = refusal(InAList(), TraceError)
    assert "Conv2d" in sentence
    assert "nn.ModuleList" in sentence


def test_a_convolution_inside_of_a_custom_function_is_refused():
    assert "F.conv2d on a learned weight" in refusal(BinaryWeights(), TraceError)
    plan = perturbify.plan(BinaryWeights(), PerturbConfig(exclude=("",)), example_input=IMAGES)
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
@pytest.mark.parametrize("backend", ["auto", "hook"])
def test_compiled_convolutions_are_refused(backend, run):
    """Their compiled code is cached without the noise, and does not look whether a hook came later."""
    inside = nn.Sequential(conv(), torch.compile(nn.Sequential(nn.ReLU(), conv(4, 4)), backend="eager"))
    for network, culprit in ((inside, "1"), (torch.compile(Plain(), backend="eager"), "OptimizedModule")):
        if run:
            with torch.no_grad():
                network.eval()(IMAGES)
        sentence = refusal(network, SurgeryError, backend=backend)
        assert sentence.startswith(f"{culprit} is compiled")
        assert "_orig_mod" in sentence


@pytest.mark.parametrize("backend", ["auto", "hook"])
def test_a_convolution_in_a_compiled_method_is_refused(backend):
    source = CompiledMethod().eval()
    with torch.no_grad():
        source(IMAGES)
    assert refusal(source, SurgeryError, backend=backend).startswith("CompiledMethod is compiled")


def test_a_call_method_of_its_own_is_refused():
    assert "__call__" in refusal(OwnCall(), SurgeryError)
