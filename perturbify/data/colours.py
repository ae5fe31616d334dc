"""Grey images for colour networks, and colour images for grey networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from perturbify.data.split import Split, as_floats

GREY, COLOUR = 1, 3
WAYS = {
    (GREY, COLOUR): "The images are grey: each is repeated to three channels.",
    (COLOUR, GREY): "The network takes one channel: colour is converted to luminance.",
}
"""The possible conversions of channels, with the note for each."""
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's


def recoloured(split: Split, channels: int) -> Split:
    """The same images with another number of channels, 1 or 3 (see :data:`WAYS`)."""
    return split.inner if isinstance(split, Recoloured) else Recoloured(split, channels)


class Recoloured(Split):
    """A split whose images are converted to grey, or repeated to three channels, as they are read.

    Args:
        inner: The images as stored, with the other number of channels.
        channels: 1 or 3.
    """

    def __init__(self, inner: Split, channels: int) -> None:
        super().__init__(inner.labels)
        self.inner = inner
        self.channels = channels

    @property
    def bytes(self) -> int | None:
        """Size of the pixels in memory, as stored."""
        return self.inner.bytes

    def to(self, device: torch.device) -> Recoloured:
        """The images, their pixels on a device."""
        return Recoloured(self.inner.to(device), self.channels)

    def subset(self, indices: Tensor) -> Recoloured:
        """The images at ``indices`` (int64), in that order."""
        return Recoloured(self.inner.subset(indices), self.channels)

    def digest(self) -> str:
        """The digest of the images as stored."""
        return self.inner.digest()

    def _read(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        for pixels in self.inner._read(chunks):
            if self.channels == COLOUR:
                yield pixels.expand(-1, COLOUR, -1, -1).contiguous()
            else:
                x = as_floats(pixels)
                yield torch.einsum("nchw,c->nhw", x, x.new_tensor(_LUMINANCE))[:, None].clamp_(0, 1)
