"""What wrap refuses, with which error, and what the sentence says."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import (
    AlreadyWrapped,
    InputSizeError,
    ModelError,
    NoConvolutions,
    ParityError,
    SurgeryError,
)

X = torch.rand(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.extra = nn.Conv2d(3, 4, 3), None


def refused(network, error, match, example=X, **options):
    with pytest.raises(error, match=match) as caught:
        perturbify.wrap(network, example_input=example, **options)
    return caught.value


def test_nothing_to_perturb():
    refused(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), NoConvolutions, "Sequential has nothing.*makes no conv")
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    refused(network, NoConvolutions, "All 1 of its", config=PerturbConfig(exclude=("*",)))


def test_wrapped_twice():
    wrapped = perturbify.wrap(nn.Conv2d(3, 4, 3), example_input=X)
    refused(wrapped, AlreadyWrapped, r"already wrapped\. Call perturbify\.unwrap")
    refused(nn.Sequential(wrapped), AlreadyWrapped, "already wrapped")
    refused(perturbify.wrap(nn.Conv2d(3, 4, 3), None, example_input=X), AlreadyWrapped, "already wrapped")


def test_a_call_count_that_changes_between_forwards():
    class Skipping(Net):
        seen = 0

        def forward(self, x):
            type(self).seen += 1
            return self.conv(x) if type(self).seen % 3 else self.conv(x) + self.conv(x)

    refused(Skipping(), SurgeryError, "Skipping differs from the source in eval mode")


def test_a_counter_kept_in_python():
    class Counting(Net):
        steps = 0

        def forward(self, x):
            type(self).steps += 1
            return self.conv(x) * type(self).steps

    error = refused(Counting(), ParityError, "Counting differs from the source in eval mode")
    assert "outside the network" in error.hint


def test_the_first_module_that_differs_is_named():
    class Stepping(nn.Module):
        steps = 0

        def forward(self, x):
            type(self).steps += 1
            return x * type(self).steps

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(Stepping()))
    refused(network, ParityError, r"the first module that differs is 2(\.0)?\.")


def test_weights_read_where_a_tracer_cannot_see():
    class Baking(Net):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.conv(x) * (self._parameters["gain"] * 2)

    wrapped = perturbify.wrap(Baking(), example_input=X)
    with torch.no_grad(), perturbify.noise(wrapped, enabled=False):
        before = wrapped(X)
        wrapped.gain.mul_(2)
        assert torch.equal(wrapped(X), before * 2)


def test_a_feature_map_that_grows_with_the_batch():
    class Folding(Net):
        def forward(self, x):
            b = x.shape[0]
            y = self.conv(x).reshape(1, b * 4, 6, 6)
            y = y.movedim(1, 2).reshape(1, 6, b * 4, 6)
            return F.conv2d(y, self.conv.weight.repeat(1, 2, 1, 1)).sum((2, 3)).expand(b, -1)

    refused(
        Folding(),
        SurgeryError,
        r"feature map of \(root\) changes its shape with the batch size: it is 4×6×4, and 4×10×4",
    )
    for settings in ({"exclude": ("",)}, {"grain": "layer"}):
        wrapped = perturbify.wrap(Folding(), PerturbConfig(**settings), example_input=X)
        assert wrapped(torch.rand(5, 3, 8, 8)).shape == (5, 4)


def test_a_wrong_input_size_names_both_sizes():
    wrapped = perturbify.wrap(nn.Sequential(nn.Conv2d(3, 4, 3)), example_input=X)
    with pytest.raises(
        InputSizeError,
        match=r'0 was made for inputs of 3×8×8, a feature map of 4×6×6; this one is 4×14×10.*grain="channel"',
    ):
        wrapped(torch.rand(2, 3, 16, 12))
    for grain in ("channel", "layer"):
        anything = perturbify.wrap(nn.Conv2d(3, 4, 3), PerturbConfig(grain=grain), example_input=X)
        assert anything(torch.rand(1, 3, 16, 12)).shape == (1, 4, 14, 10)


def test_an_unknown_input_size():
    with pytest.raises(ModelError, match=r"Conv2d does not say its input size\..*example_input"):
        perturbify.wrap(nn.Conv2d(3, 4, 3))
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module, not str"):
        perturbify.wrap("resnet18")


def test_inputs_that_do_not_fit_the_network():
    refused(nn.Conv2d(3, 4, 3), ModelError, "Conv2d itself fails on the example input", example=torch.rand(2, 5, 8, 8))
    refused(nn.Conv2d(3, 4, 3), ModelError, r"does not fit Conv2d\.forward", example=(X, X, X))
    refused(nn.Conv2d(3, 4, 3), ModelError, r"does not fit Conv2d\.forward", example={"image": X})


def test_variadic_inputs():
    class Star(Net):
        def forward(self, *xs):
            return self.conv(xs[0])

    wrapped = perturbify.wrap(Star(), example_input=(X, X))
    assert not torch.equal(wrapped(X, X), wrapped(X, X))


@pytest.mark.parametrize("taken", ["surgery", "normalize"])
def test_names_that_are_taken(taken):
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    setattr(network, taken, "mine")
    normalize = perturbify.Normalize([0.5] * 3, [0.5] * 3)
    refused(network, SurgeryError, f"attribute '{taken}'", normalize=normalize)


def test_a_child_named_perturb():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    network[0].perturb = nn.Identity()
    refused(network, SurgeryError, "0 has an attribute 'perturb'")


def test_methods_of_the_source_run_with_the_noise():
    class WithMethods(Net):
        kind = "toy"

        def features(self, x):
            return self.conv(x)

        def forward(self, x):
            return self.features(x)

    wrapped = perturbify.wrap(WithMethods(), example_input=X)
    assert wrapped.kind == "toy"
    assert not torch.equal(wrapped.features(X), wrapped.features(X))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = wrapped.nonsense
    assert not hasattr(wrapped, "nonsense")


def test_unwrap_of_something_else():
    with pytest.raises(SurgeryError, match="Conv2d is not a wrapped network"):
        perturbify.unwrap(nn.Conv2d(3, 4, 3))


def test_a_network_that_cannot_be_copied():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    network.note = (n for n in ())
    refused(network, SurgeryError, "cannot be copied")
