"""Images for the report, as data URLs."""

from __future__ import annotations

import base64
import io

from torch import Tensor

SIDE = 128
"""The most pixels a side; larger images are scaled down."""


def strip(x: Tensor, adversarial: Tensor, labels: list[str], said: list[str], n: int = 8) -> list[dict[str, str]]:
    """Pictures of the first images of a batch: clean, attacked, and ten times the difference around grey.

    Args:
        x: Images, shape (N, C, H, W), in [0, 1].
        adversarial: The same, attacked.
        labels: Name of each image's class.
        said: Name of the class predicted for each attacked image.
        n: The most images.

    Returns:
        For each image its label and three pictures, as URLs with the data in them.
    """
    return [
        {
            "label": label,
            "answer": answer,
            "clean": data_url(clean),
            "adversarial": data_url(attacked),
            "difference": data_url((0.5 + 10 * (attacked - clean)).clamp(0, 1)),
        }
        for clean, attacked, label, answer in list(zip(x, adversarial, labels, said, strict=True))[:n]
    ]


def data_url(image: Tensor) -> str:
    """An image as the URL of a PNG file.

    Args:
        image: Shape (C, H, W), in [0, 1]; with more than three channels the first three are shown, with two the first.
    """
    from PIL import Image

    pixels = image.detach().float().cpu().mul(255).round().clamp(0, 255).byte()
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
