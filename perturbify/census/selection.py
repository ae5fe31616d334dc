"""Selects models: all of a library, or a sample that includes each family known to be hard for a graph pass."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase

from perturbify import zoo
from perturbify.census import libraries

HARD = (
    # Control flow that depends on shapes or values, lists as inputs: what torch.fx cannot trace.
    "timm:efficientvit_b0",
    "timm:efficientvit_m0",
    "timm:mobilevit_xxs",
    "timm:tiny_vit_5m_224",
    "timm:edgenext_xx_small",
    "timm:lowformer_b0",
    "timm:levit_conv_128s",
    "torchvision:raft_small",
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "torchvision:ssdlite320_mobilenet_v3_large",
    # Shared convolutions, functional ones, fixed ones, weights standardised in the forward.
    "timm:coat_lite_tiny",
    "timm:tf_efficientnet_cc_b0_4e",
    "timm:resnetblur18",
    "timm:test_nfnet",
    "timm:resnetv2_50x1_bit",
    "timm:tf_efficientnet_b0",
    "timm:convit_tiny",
    "timm:volo_d1_224",
    "timm:tnt_s_legacy_patch16_224",
    "timm:halonet26t",
    # A batch that is not the leading dimension, or sizes that a tracer might hard-code.
    "timm:xcit_nano_12_p16_224",
    "timm:mvitv2_tiny",
    "timm:hiera_tiny_224",
    "timm:levit_128s",
    "timm:efficientformerv2_s0",
    "timm:crossvit_tiny_240",
    "timm:maxvit_tiny_tf_224",
    # Another form in train mode, other outputs, other dimensions, constructors that need values.
    "torchvision:googlenet",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:r3d_18",
    "torchvision:quantized_mobilenet_v2",
    "torchvision:regnet_x_400mf",
    # Without a convolution.
    "timm:naflexvit_base_patch16_gap",
)
"""One model, small if possible, of each family that some tool is known to get wrong."""


def model_names(library: str, pattern: str = "*") -> list[str]:
    """The qualified names of a library's models that match a glob, with or without the library's name.

    Args:
        library: ``"timm"``, ``"torchvision"`` or one of :data:`perturbify.census.libraries.ROOMS`.
        pattern: The glob.

    Raises:
        PerturbifyError: The library is not installed.
    """
    if library not in libraries.ROOMS:
        matching = set(zoo.model_names(pattern))
        return [n for n in zoo.model_names(f"{library}:*") if n in matching]
    names = libraries.network_names(library)
    return [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n.partition(":")[2], pattern)]


def sample(names: list[str], size: int, seed: int) -> list[str]:
    """Samples models: those known to be hard first, then others at random.

    Args:
        names: Names to sample from.
        size: Number of models.
        seed: Seed of the sample.
    """
    hard = [n for n in HARD if n in names][:size]
    rest = sorted(set(names) - set(hard))
    return hard + random.Random(seed).sample(rest, min(len(rest), size - len(hard)))
