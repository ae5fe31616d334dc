"""``x + θ ⊙ ε`` in one pass over memory: ε is made in registers, and regenerated for θ's gradient, never stored.

Importing this needs Triton. The numbers are those of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011) and Box-Muller. ε of an element follows from a seed, the element's index in its image and the image's
place in the batch, not from the memory format or the division of the work into blocks. One call of Philox makes
four numbers; they go to four images, so that neighbours in memory are neighbours in a block in every memory format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

_BLOCK = 512
_PROGRAMS = 1024  # enough to keep any GPU busy; more would only leave more partial sums to add


@triton.jit
def _locate(place, channels, channel_size, channels_last: tl.constexpr):  # type: ignore[no-untyped-def]
    """Index in a contiguous image, and channel, of the elements at ``place`` in an image's memory."""
    if channels_last:
        channel = place % channels
        index = channel * channel_size + place // channels
    else:
        channel = place // channel_size
        index = place
    return index, channel


@triton.jit
def _draw(seed, index, four, batch_shares: tl.constexpr):  # type: ignore[no-untyped-def]
    """ε of the elements at ``index`` in four neighbouring images."""
    # Unsigned 32-bit counters choose Philox 4x32, also in older versions of Triton.
    index = index.to(tl.uint32, bitcast=True)
    zero = index * 0
    if batch_shares:
        a, b, _, _ = tl.philox(seed, index, zero, zero, zero)
        one, _ = _normal_pair(a, b)
        return one, one, one, one
    a, b, c, d = tl.philox(seed, index, zero + four.to(tl.uint32, bitcast=True), zero, zero)
    one, two = _normal_pair(a, b)
    three, four = _normal_pair(c, d)
    return one, two, three, four


@triton.jit
def _normal_pair(a, b):  # type: ignore[no-untyped-def]
    """Box-Muller on two blocks of uint32. Triton's own takes several times the instructions for sine and cosine."""
    radius = tl.sqrt(-2.0 * tl.log((a.to(tl.float32) + 0.5) * 2.3283064365386963e-10))  # 2⁻³²
    # A point on a quarter of the circle, ±π/4 around (1, 0); the two highest bits say which quarter it is moved to.
    angle = (b << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.657295198167899e-10  # 2⁻³¹ π/4
    square = angle * angle
    sine = angle * (1 + square * (-1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square * (1 / 362880)))))
    cosine = 1 + square * (-1 / 2 + square * (1 / 24 + square * (-1 / 720 + square * (1 / 40320))))
    cosine = tl.where(b >> 31 == 0, cosine, -cosine)
    upright = (b >> 30) & 1 == 0
    return radius * tl.where(upright, cosine, sine), radius * tl.where(upright, sine, cosine)


@triton.jit
def _add_noise(  # type: ignore[no-untyped-def]
    x_ptr,
    theta_ptr,
    seed_ptr,
    noisy_ptr,
    images,
    elements,
    channels,
    channel_size,
    per_element: tl.constexpr,
    per_channel: tl.constexpr,
    batch_shares: tl.constexpr,
    channels_last: tl.constexpr,
    block_size: tl.constexpr,
):
    """A block of elements in four images."""
    blocks = tl.cdiv(elements, block_size)
    four = tl.program_id(0) // blocks
    place = tl.program_id(0) % blocks * block_size + tl.arange(0, block_size)
    inside = place < elements
    index, channel = _locate(place, channels, channel_size, channels_last)
    if per_element:
        theta = tl.load(theta_ptr + index, mask=inside, other=0.0).to(tl.float32)
    elif per_channel:
        theta = tl.load(theta_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    else:
        theta = tl.load(theta_ptr).to(tl.float32)
    draws = _draw(tl.load(seed_ptr), index, four, batch_shares)
    for i in tl.static_range(4):
        image = four * 4 + i
        here = image.to(tl.int64) * elements + place
        mask = place < tl.where(image < images, elements, 0)
        x = tl.load(x_ptr + here, mask=mask, other=0.0).to(tl.float32)
        tl.store(noisy_ptr + here, (x + theta * draws[i]).to(noisy_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _sum_over_images(  # type: ignore[no-untyped-def]
    gradient_ptr,
    seed_ptr,
    sums_ptr,
    images,
    elements,
    channels,
    channel_size,
    fours_each,
    batch_shares: tl.constexpr,
    channels_last: tl.constexpr,
    block_size: tl.constexpr,
):
    """A block of elements, summed over ``fours_each`` times four images."""
    blocks = tl.cdiv(elements, block_size)
    part = tl.program_id(0) // blocks
    place = tl.program_id(0) % blocks * block_size + tl.arange(0, block_size)
    inside = place < elements
    index, _ = _locate(place, channels, channel_size, channels_last)
    seed = tl.load(seed_ptr)
    total = tl.zeros((block_size,), tl.float32)
    for step in range(fours_each):
        four = part * fours_each + step
        draws = _draw(seed, index, four, batch_shares)
        for i in tl.static_range(4):
            image = four * 4 + i
            here = image.to(tl.int64) * elements + place
            mask = place < tl.where(image < images, elements, 0)
            gradient = tl.load(gradient_ptr + here, mask=mask, other=0.0)
            total += gradient.to(tl.float32) * draws[i]
    tl.store(sums_ptr + part.to(tl.int64) * elements + index, total, mask=inside)


def fused_noise(x: Tensor, theta: Tensor, draw_per: str) -> Tensor:
    """Adds noise to a feature map: ``x + θ ⊙ ε``, ε ~ N(0, 1).

    The one number that determines all of ε is drawn on the device of ``x``, by torch's global generator for it, anew
    at every replay of a CUDA graph. No ε is beyond 6.77.

    Args:
        x: Shape (N, C, …) or (C, …), on a GPU, float32, bfloat16 or float16, not empty, fewer than 2³⁰ elements
            in an image, because indices into it have 32 bits. Contiguous and channels-last memory is read in place, any
            other is copied first.
        theta: Shape (C, …), (C, 1, …) or (1, 1, …), any floating dtype; it is not rounded to that of ``x``.
        draw_per: ``"sample"`` draws ε for every image, ``"batch"`` once for all images of a batch.

    Returns:
        A tensor like ``x``.
    """
    seed = torch.randint(2**62, (1,), device=x.device)
    if torch.compiler.is_compiling():
        return add_noise(x, theta, seed, draw_per == "batch")
    # An operator of a library costs several times as much per call as an autograd function.
    return _Fused.apply(x, theta, seed, draw_per == "batch")


@triton_op("perturbify::add_noise", mutates_args={})
def add_noise(x: Tensor, theta: Tensor, seed: Tensor, batch_shares: bool) -> Tensor:
    """:func:`fused_noise` with a given seed, as an operator that compilers can see into.

    Args:
        x: As in :func:`fused_noise`.
        theta: As in :func:`fused_noise`.
        seed: Shape (1,), int64, at least 0, on the device of ``x``.
        batch_shares: Whether all images of the batch have the same ε.
    """
    return _launch_noise(wrap_triton(_add_noise), x, theta, seed, batch_shares)


@triton_op("perturbify::theta_gradient", mutates_args={})
def theta_gradient(gradient: Tensor, seed: Tensor, shape: list[int], batch_shares: bool) -> Tensor:
    """Gradient for θ of :func:`add_noise`: the sum of ``gradient ⊙ ε`` over all that share an entry of θ.

    The order of the sum does not change from run to run.

    Args:
        gradient: Gradient for the result, in its shape and dtype.
        seed: The seed of the forward pass.
        shape: Shape of θ.
        batch_shares: As in the forward pass.

    Returns:
        Shape ``shape``, float32.
    """
    return _launch_sum(wrap_triton(_sum_over_images), gradient, seed, shape, batch_shares)


def _launch_noise(kernel: Any, x: Tensor, theta: Tensor, seed: Tensor, batch_shares: bool) -> Tensor:
    x, channels_last = _readable(x, theta.dim())
    noisy = torch.empty_like(x)
    images, channels, elements = _sizes(x, theta.dim())
    with torch.cuda.device_of(x):  # Triton launches on the current device, wherever the tensors are
        kernel[(_ceil(elements, _BLOCK) * _ceil(images, 4),)](
            x,
            theta.contiguous(),
            seed,
            noisy,
            images,
            elements,
            channels,
            elements // channels,
            per_element=theta.numel() == elements,
            per_channel=theta.numel() > 1,
            batch_shares=batch_shares,
            channels_last=channels_last,
            block_size=_BLOCK,
        )
    return noisy


def _launch_sum(kernel: Any, gradient: Tensor, seed: Tensor, shape: Sequence[int], batch_shares: bool) -> Tensor:
    gradient, channels_last = _readable(gradient, len(shape))
    images, channels, elements = _sizes(gradient, len(shape))
    blocks, fours = _ceil(elements, _BLOCK), _ceil(images, 4)
    fours_each = _ceil(fours, _ceil(_PROGRAMS, blocks))
    parts = _ceil(fours, fours_each)
    sums = gradient.new_empty((parts, *gradient.shape[gradient.dim() - len(shape) :]), dtype=torch.float32)
    with torch.cuda.device_of(gradient):
        kernel[(blocks * parts,)](
            gradient,
            seed,
            sums,
            images,
            elements,
            channels,
            elements // channels,
            fours_each,
            batch_shares=batch_shares,
            channels_last=channels_last,
            block_size=_BLOCK,
        )
    shared = [dim + 1 for dim, size in enumerate(shape) if size == 1]
    return sums.sum([0, *shared]).view(shape)


def _readable(x: Tensor, image_dims: int) -> tuple[Tensor, bool]:
    """``x``, copied if necessary, and whether its channels are last in memory."""
    if x.is_contiguous():
        return x, False
    if x.movedim(-image_dims, -1).is_contiguous():
        return x, True
    return x.contiguous(), False


def _sizes(x: Tensor, image_dims: int) -> tuple[int, int, int]:
    """Images in ``x``, channels, and elements of an image."""
    images = x.shape[0] if x.dim() > image_dims else 1
    return images, x.shape[-image_dims], x.shape[x.dim() - image_dims :].numel()


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, theta, seed, ctx.batch_shares = inputs
    ctx.save_for_backward(seed)
    ctx.shape, ctx.dtype = theta.shape, theta.dtype


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    for_theta = None
    if ctx.needs_input_grad[1]:
        (seed,) = ctx.saved_tensors
        for_theta = theta_gradient(gradient, seed, ctx.shape, ctx.batch_shares).to(ctx.dtype)
    return gradient, for_theta, None, None


def _remember_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gradient, seed, _, ctx.batch_shares = inputs
    ctx.save_for_backward(gradient, seed)


def _gradients_of_gradient(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
    gradient, seed = ctx.saved_tensors
    return add_noise(torch.zeros_like(gradient), upstream, seed, ctx.batch_shares), None, None, None


add_noise.register_autograd(_gradients, setup_context=_remember)
theta_gradient.register_autograd(_gradients_of_gradient, setup_context=_remember_gradient)


class _Fused(torch.autograd.Function):
    """:func:`add_noise` outside compiled code."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, seed: Tensor, batch_shares: bool) -> Tensor:
        _remember(ctx, (x, theta, seed, batch_shares), x)
        return _launch_noise(_add_noise, x, theta, seed, batch_shares)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        if torch.is_grad_enabled() or not ctx.needs_input_grad[1]:
            return _gradients(ctx, gradient)
        (seed,) = ctx.saved_tensors
        for_theta = _launch_sum(_sum_over_images, gradient, seed, ctx.shape, ctx.batch_shares)
        return gradient, for_theta.to(ctx.dtype), None, None
