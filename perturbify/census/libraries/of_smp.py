"""segmentation_models_pytorch: each architecture with several kinds of encoders."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from perturbify.census.libraries.network import Network, images

smp: Any = importlib.import_module("segmentation_models_pytorch")

_ARCHITECTURES = (
    "DeepLabV3",
    "DeepLabV3Plus",
    "DPT",
    "FPN",
    "Linknet",
    "MAnet",
    "PAN",
    "PSPNet",
    "Segformer",
    "Unet",
    "UnetPlusPlus",
    "UPerNet",
)
_ENCODERS = ("resnet18", "mobilenet_v2", "timm-efficientnet-b0", "mit_b0", "tu-convnext_atto")
_TRANSFORMERS = ("tu-vit_tiny_patch16_224.augreg_in21k", "tu-deit_tiny_patch16_224.fb_in1k")
"""Encoders for DPT, which supports no others."""
_REFUSED = {
    "Linknet": ("mit_b0", "tu-convnext_atto"),
    "PAN": ("mit_b0", "tu-convnext_atto"),
    "UnetPlusPlus": ("mit_b0",),
}
"""Encoders that an architecture does not support: too few stages, or another stride."""
_SIDES = {"DPT": 224, "PAN": 128}


@cache
def names() -> list[str]:
    """``Unet-resnet18`` and so on."""
    return [
        f"{a}-{e}"
        for a in _ARCHITECTURES
        for e in (_TRANSFORMERS if a == "DPT" else _ENCODERS)
        if e not in _REFUSED.get(a, ())
    ]


def build(name: str) -> Network:
    """Builds one with random weights."""
    architecture, _, encoder = name.partition("-")
    arguments = {"encoder_name": encoder, "encoder_weights": None}
    side = _SIDES.get(architecture, 64)
    return Network(getattr(smp, architecture)(**arguments), (images(3, side, side),), arguments)
