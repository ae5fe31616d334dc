"""How far a convolution can stretch an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def convolution_norm(
    weight: Tensor,
    size: Sequence[int],
    *,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    circular: Sequence[int] | None = None,
) -> float:
    """Upper bound on the l2 operator norm of a convolution, of any stride and any amount of zero padding.

    A circular convolution on a grid is block-diagonal in the discrete Fourier basis, which is orthonormal: its norm is
    the greatest singular value of the C_out × C_in matrices of the kernel's transform, over all frequencies (Sedghi,
    Gupta, Long: "The Singular Values of Convolutional Layers", ICLR 2019); with groups, the greatest over these.

    *Zero padding.* On a grid of the input's size plus the kernel's extent minus 1, nothing that is wrapped around meets
    an input within the first ``size`` entries. Restricted to such inputs, the circular convolution gives each output of
    the padded one, and further ones: restricting inputs and dropping outputs cannot raise a norm. A stride drops more
    outputs, and padding beyond the kernel's extent adds zeros alone.

    *Circular padding.* The grid is the input's. Padded by more than the kernel's extent minus 1, the outputs repeat,
    each at most ``⌈outputs / size⌉`` times along a dimension, which raises the norm by at most the root of that.

    Args:
        weight: Shape (C_out, C_in / groups, *kernel).
        size: Of the input, along each spatial dimension.
        dilation: Along each; 1 by default.
        groups: Into which the channels are divided.
        circular: Entries of circular padding along each dimension, both sides together; None: the padding is zero.

    Returns:
        The bound; infinite where an entry of the weight is not finite.
    """
    if not weight.isfinite().all():
        return math.inf
    taps = weight.shape[2:]
    gram = _autocorrelation(weight.detach().to("cpu", torch.float64).unflatten(0, (groups, -1)))
    repeats = 1
    for axis, (n, k) in enumerate(zip(size, taps, strict=True)):
        step = 1 if dilation is None else dilation[axis]
        reach = step * (k - 1)
        grid = n + reach
        if circular is not None:
            grid = n
            repeats *= max(1, math.ceil((n + circular[axis] - reach) / n))
        # The transform of real numbers is symmetric: half of the last axis tells it all.
        frequencies = torch.arange(grid if axis < len(size) - 1 else grid // 2 + 1)
        lags = step * torch.fft.fftfreq(2 * k - 1, 1 / (2 * k - 1), dtype=torch.float64)
        phases = torch.outer(lags, frequencies.double()) * (-2 * math.pi / grid)
        gram = torch.tensordot(gram, torch.polar(torch.ones_like(phases), phases), dims=([3], [0]))
    greatest = torch.linalg.eigvalsh(gram.flatten(3).permute(0, 3, 1, 2))[..., -1].max()
    return math.sqrt(repeats * max(0.0, greatest.item()))


def _autocorrelation(kernel: Tensor) -> Tensor:
    """What ``MᴴM``, or ``MMᴴ`` where that is smaller, is the transform of, for the matrices M of a kernel's transform.

    Args:
        kernel: Shape (groups, C_out, C_in, *kernel).

    Returns:
        Shape (groups, C, C, *lags), complex: 2k - 1 lags for k taps, from 0 up and then those below 0.
    """
    lags = [2 * k - 1 for k in kernel.shape[3:]]
    axes = tuple(range(3, kernel.dim()))
    matrices = torch.fft.fftn(kernel, s=lags, dim=axes).movedim((1, 2), (-2, -1))
    wide = kernel.shape[1] < kernel.shape[2]
    gram = matrices @ matrices.mH if wide else matrices.mH @ matrices
    return torch.fft.ifftn(gram.movedim((-2, -1), (1, 2)), dim=axes)
