"""How much a convolution can amplify an image."""

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
    the largest singular value of the C_out × C_in matrices of the kernel's transform, over all frequencies (Sedghi,
    Gupta, Long: "The Singular Values of Convolutional Layers", ICLR 2019); with groups, the maximum over them.

    *Zero padding.* On a grid of the input's size plus the kernel's extent minus 1, inputs within the first ``size``
    entries never meet their wrapped-around copies. Restricted to such inputs, the circular convolution contains every
    output of the padded one: restricting inputs and dropping outputs cannot raise a norm. A stride drops more outputs,
    and padding beyond the kernel's extent adds only zeros.

    *Circular padding.* The grid is the input's. With padding beyond the kernel's extent minus 1, outputs repeat, each
    at most ``⌈outputs / size⌉`` times along a dimension, which raises the norm by at most the square root of that.

    Args:
        weight: Shape (C_out, C_in / groups, *kernel).
        size: Input size along each spatial dimension.
        dilation: Dilation along each; 1 by default.
        groups: Number of channel groups.
        circular: Entries of circular padding along each dimension, both sides together; None for zero padding.

    Returns:
        The bound; infinite if an entry of the weight is not finite.
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
        # The transform of real numbers is symmetric: half of the last axis is enough.
        frequencies = torch.arange(grid if axis < len(size) - 1 else grid // 2 + 1)
        lags = step * torch.fft.fftfreq(2 * k - 1, 1 / (2 * k - 1), dtype=torch.float64)
        phases = torch.outer(lags, frequencies.double()) * (-2 * math.pi / grid)
        gram = torch.tensordot(gram, torch.polar(torch.ones_like(phases), phases), dims=([3], [0]))
    greatest = torch.linalg.eigvalsh(gram.flatten(3).permute(0, 3, 1, 2))[..., -1].max()
    return math.sqrt(repeats * max(0.0, greatest.item()))


def _autocorrelation(kernel: Tensor) -> Tensor:
    """The inverse transform of ``MᴴM``, or of ``MMᴴ`` if smaller, for the matrices M of a kernel's transform.

    Args:
        kernel: Shape (groups, C_out, C_in, *kernel).

    Returns:
        Shape (groups, C, C, *lags), complex: 2k - 1 lags for k taps, the non-negative ones first.
    """
    lags = [2 * k - 1 for k in kernel.shape[3:]]
    axes = tuple(range(3, kernel.dim()))
    matrices = torch.fft.fftn(kernel, s=lags, dim=axes).movedim((1, 2), (-2, -1))
    wide = kernel.shape[1] < kernel.shape[2]
    gram = matrices @ matrices.mH if wide else matrices.mH @ matrices
    return torch.fft.ifftn(gram.movedim((-2, -1), (1, 2)), dim=axes)
