"""The bound on a convolution's norm, against its matrix written out, and against a search for a counterexample."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perturbify.certification import convolution_norm

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def matrix(layer, shape):
    """The matrix of a linear layer, from inputs of a shape."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return layer(basis).flatten(1).T


def bound(layer, size):
    circular = [2 * p for p in layer.padding] if layer.padding_mode == "circular" else None
    return convolution_norm(layer.weight, size, dilation=layer.dilation, groups=layer.groups, circular=circular)


@st.composite
def convolutions(draw, mode="zeros"):
    """A convolution, and the size of its input."""
    dims = draw(st.integers(1, 2))
    size = draw(st.tuples(*[st.integers(3, 7)] * dims))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * dims))
    dilation = draw(st.tuples(*[st.integers(1, 2)] * dims))
    extent = [1 + d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    # Torch wraps around once at most; a kernel must fit into what is padded.
    most = size if mode == "circular" else (9,) * dims
    padding = tuple(
        draw(st.integers(max(0, math.ceil((e - n) / 2)), m)) for e, n, m in zip(extent, size, most, strict=True)
    )
    groups = draw(st.integers(1, 2))
    torch.manual_seed(draw(st.integers(0, 1000)))
    layer = KINDS[dims](
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=draw(st.integers(1, 3)),
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=False,
        padding_mode=mode,
        dtype=torch.float64,
    )
    if draw(st.booleans()):  # smooth kernels stretch slow images most, which padding touches least
        layer.weight.data.abs_()
    return layer, size


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_no_zero_padded_convolution_exceeds_the_bound(case):
    layer, size = case
    exact = torch.linalg.matrix_norm(matrix(layer, (layer.in_channels, *size)), 2).item()
    assert exact <= bound(layer, size) * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(convolutions(mode="circular"))
def test_no_circular_convolution_exceeds_the_bound(case):
    layer, size = case
    exact = torch.linalg.matrix_norm(matrix(layer, (layer.in_channels, *size)), 2).item()
    assert exact <= bound(layer, size) * (1 + 1e-9)


@pytest.mark.parametrize(("dilation", "groups"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_the_norm_is_exact_for_circular_convolutions(dilation, groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(
        3, 6, 3, padding=dilation, dilation=dilation, groups=groups, padding_mode="circular", bias=False
    ).double()
    exact = torch.linalg.matrix_norm(matrix(layer, (3, 6, 7)), 2).item()
    assert bound(layer, (6, 7)) == pytest.approx(exact, rel=1e-9)


def test_the_padding_of_the_whole_kernel_comes_close():
    """A blur of a large image hardly notices its edges."""
    layer = nn.Conv2d(1, 1, 3, padding=2, bias=False).double()
    nn.init.constant_(layer.weight, 1 / 9)
    exact = torch.linalg.matrix_norm(matrix(layer, (1, 24, 24)), 2).item()
    assert 0.97 < exact / bound(layer, (24, 24)) <= 1


def test_three_dimensions_and_uneven_kernels():
    torch.manual_seed(0)
    layer = nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 2), stride=(1, 2, 1), bias=False).double()
    exact = torch.linalg.matrix_norm(matrix(layer, (2, 3, 4, 5)), 2).item()
    assert 0.5 * bound(layer, (3, 4, 5)) < exact <= bound(layer, (3, 4, 5))


def test_more_channels_in_than_out():
    """A 1×1 convolution has the norm of its matrix, whichever side is longer."""
    torch.manual_seed(0)
    for shape in ((2, 7), (7, 2)):
        weight = torch.randn(*shape, 1, 1)
        exact = torch.linalg.matrix_norm(weight[:, :, 0, 0].double(), 2).item()
        assert convolution_norm(weight, (5, 5)) == pytest.approx(exact, rel=1e-9)


def test_a_kernel_wider_than_the_circular_input():
    weight = torch.ones(1, 1, 5)
    layer = nn.Conv1d(1, 1, 5, padding=2, padding_mode="circular", bias=False).double()
    layer.weight.data.copy_(weight)
    exact = torch.linalg.matrix_norm(matrix(layer, (1, 3)), 2).item()
    assert convolution_norm(weight, (3,), circular=(4,)) == pytest.approx(exact)


def test_weights_that_are_not_finite():
    for bad in (float("nan"), float("inf")):
        assert convolution_norm(torch.tensor([[[1.0, bad]]]), (4,)) == math.inf
    assert convolution_norm(torch.zeros(2, 3, 3, 3), (8, 8)) == 0
