"""Random crops and flips of a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(x: Tensor, *, crop_padding: int, flip: bool, generator: torch.Generator | None = None) -> Tensor:
    """Shifts each image by its own random offset over a border of zeros, and flips each with probability 1/2.

    As torchvision's ``RandomCrop(size, padding)`` and ``RandomHorizontalFlip()`` do to one image.

    Args:
        x: Pixels, float of shape (B, C, H, W).
        crop_padding: Width of the zero border in pixels, 0 or more; 0 does not shift.
        flip: Whether to flip images left to right at random.
        generator: A random generator on any device; by default torch's global one of x's device.

    Returns:
        Pixels of the same shape, dtype and device; ``x`` itself when there is nothing to do.
    """
    if crop_padding == 0 and not flip:
        return x
    batch, channels, height, width = x.shape
    draw_on = x.device if generator is None else generator.device

    def draw(bound: int) -> Tensor:
        return torch.randint(bound, (batch, 1), generator=generator, device=draw_on).to(x.device)

    rows = torch.arange(height, device=x.device) + draw(2 * crop_padding + 1)
    columns = torch.arange(width, device=x.device) + draw(2 * crop_padding + 1)
    if flip:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)

    padded = F.pad(x, [crop_padding] * 4)
    image = torch.arange(batch, device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=x.device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
