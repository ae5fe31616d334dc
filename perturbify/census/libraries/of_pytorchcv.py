"""pytorchcv: the first network of each family.

Not included: propainter, a pipeline of two other families; those that need librosa (jasper, quartznet); and visemenet.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch

from perturbify.census.libraries.network import Network, images

_provider: Any = importlib.import_module("pytorchcv.model_provider")

_LEFT_OUT = ("jasper5x3", "jasperdr10x5_en", "propainter", "propainter_ip", "quartznet5x5_en_ls", "visemenet20")
_POOLING = {"lffd20x5s320v2_widerface": 320, "sinet_cityscapes": 256}
"""Image sides for networks that downsample more than others."""
_LARGE = 331
"""Image side from which a segmentation network is built for a smaller image."""
_SIDE = 64


@cache
def names() -> list[str]:
    """``resnet10``, ``resnet20_cifar10`` and so on."""
    families: dict[str, str] = {}
    for name, function in _provider._models.items():
        families.setdefault(function.__module__, name)
    return [name for name in families.values() if name not in _LEFT_OUT]


def build(name: str) -> Network:
    """Builds one."""
    arguments: dict[str, Any] = {}
    model = _provider.get_model(name, pretrained=False)
    size = getattr(model, "in_size", None)
    if size is not None and max(size) > _LARGE:
        side = _POOLING.get(name, _SIDE)
        arguments = {"in_size": (side, side)}
        model = _provider.get_model(name, pretrained=False, **arguments)
    inputs = _INPUTS[name]() if name in _INPUTS else (images(3, *model.in_size),)
    return Network(model, inputs, arguments)


_INPUTS: dict[str, Any] = {
    "nvpattexp116bazel76": lambda: (images(8, 16, 29), torch.tensor([3, 4])),
    "pfpcnet": lambda: (images(1, 320, 240),),
    "propainter_rfc": lambda: (images(3, 2, 64, 64), images(3, 1, 64, 64)),
    "raft_things": lambda: (images(3, 128, 128), images(3, 128, 128).flip(-1)),
    "superpointnet": lambda: (images(1, 64, 64),),
    "voca8flame": lambda: (images(1, 16, 29), torch.tensor([3, 4])),
}
