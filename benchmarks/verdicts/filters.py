"""Pixel functions that block an attacker's gradient."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def bits(n: int) -> Map:
    """Rounds to n bits, as in Xu et al., "Feature Squeezing" (2018); its gradient is zero."""
    top = 2**n - 1
    return lambda x: (x * top).round() / top


def thermometer(levels: int) -> Map:
    """Thermometer-encodes each pixel in ``levels`` levels, then sums it for a network that takes pixels.

    Buckman et al., "Thermometer Encoding: One Hot Way To Resist Adversarial Examples" (2018).
    """

    def encode(x: Tensor) -> Tensor:
        marks = (torch.arange(levels, device=x.device) + 0.5) / levels
        return (x[..., None] > marks).to(x).sum(-1) / levels

    return encode


def staircase(steps: int, steepness: float) -> Map:
    """A staircase of sigmoids, so steep that in float32 it is flat nearly everywhere."""

    def climb(x: Tensor) -> Tensor:
        floor = (x * steps).detach().floor()
        return (floor + torch.sigmoid(steepness * (x * steps - floor - 0.5))) / steps

    return climb


def rippled(height: float, frequency: float) -> Map:
    """Adds height·sin(frequency·x): the gradient's sign no longer shows where the loss rises.

    Shattered gradients: Athalye et al., "Obfuscated Gradients Give a False Sense of Security" (2018).
    """
    return lambda x: x + height * torch.sin(frequency * x)


def jpeg(quality: int) -> Map:
    """Compresses each image as JPEG, as in Guo et al., "Countering Adversarial Images" (2018)."""

    def again(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _through_pillow(again)


def median() -> Map:
    """A median filter of 3×3, as in Xu et al., "Feature Squeezing" (2018)."""
    return _through_pillow(lambda image: image.filter(ImageFilter.MedianFilter(3)))


def total_variation(weight: float, steps: int = 20) -> Map:
    """Minimises the total variation, as in Guo et al., "Countering Adversarial Images" (2018).

    With the algorithm of Chambolle, "An Algorithm for Total Variation Minimization" (2004).
    """

    def smooth(x: Tensor) -> Tensor:
        x = x.detach()
        p = x.new_zeros(2, *x.shape)
        for _ in range(steps):
            g = _slope(_divergence(p) - x / weight)
            p = (p + 0.24 * g) / (1 + 0.24 * g.norm(dim=0))
        return (x - weight * _divergence(p)).clamp(0, 1)

    return smooth


def _slope(u: Tensor) -> Tensor:
    down, right = torch.zeros_like(u), torch.zeros_like(u)
    down[..., :-1, :] = u[..., 1:, :] - u[..., :-1, :]
    right[..., :-1] = u[..., 1:] - u[..., :-1]
    return torch.stack([down, right])


def _divergence(p: Tensor) -> Tensor:
    down, right = p[0].clone(), p[1].clone()
    down[..., 1:, :] -= p[0][..., :-1, :]
    right[..., 1:] -= p[1][..., :-1]
    return down + right


def _through_pillow(change: Callable[[Image.Image], Image.Image]) -> Map:
    def whole(x: Tensor) -> Tensor:
        pixels = (x.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        changed = np.stack([np.asarray(change(Image.fromarray(p))) for p in pixels])
        return torch.from_numpy(changed).to(x).permute(0, 3, 1, 2) / 255

    return whole
