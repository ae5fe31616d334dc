"""monai: the networks of monai.networks.nets with a convolution, in two dimensions, and many also in three.

Not included: HyenaNDUNETR, which needs another package; networks without a convolution (fully connected ones,
DecoderOnlyTransformer); parts of networks (blocks, encoders); NetAdapter, TorchVisionFCModel and MILModel (a
torchvision network with another head); and Transchex (its text model is downloaded).
"""

from __future__ import annotations

import importlib
import inspect
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from perturbify.census.libraries.network import Network, images

nets: Any = importlib.import_module("monai.networks.nets")
_vista3d: Any = importlib.import_module("monai.networks.nets.vista3d")

_STEPS: dict[str, Any] = {"channels": (4, 8, 16), "strides": (2, 2, 1)}
_DIFFUSION: dict[str, Any] = {
    "channels": (8, 16),
    "attention_levels": (False, True),
    "norm_num_groups": 4,
    "num_res_blocks": 1,
}
_TRANSFORMER: dict[str, Any] = {"hidden_size": 24, "mlp_dim": 48, "num_heads": 2}
_PATCHES: dict[str, Any] = {"img_size": (32, 32), "patch_size": 8, **_TRANSFORMER}
_SE: dict[str, Any] = {"layers": (1, 1, 1, 1), "num_classes": 3}
_PLANE: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1}
_MEDNEXT: dict[str, Any] = {"init_filters": 4, "kernel_size": 3}

_ARGUMENTS: dict[str, dict[str, Any]] = {
    "AHNet": {},
    "AttentionUnet": {**_STEPS, "strides": (2, 2)},
    "AutoEncoder": _STEPS,
    "AutoencoderKL": {**_DIFFUSION, "latent_channels": 3},
    "BasicUNet": {"features": (4, 4, 8, 8, 16, 4)},
    "BasicUNetPlusPlus": {"features": (4, 4, 8, 8, 16, 4)},
    "Classifier": {"in_shape": (1, 32, 32), "classes": 3, **_STEPS},
    "ControlNet": {**_DIFFUSION, "conditioning_embedding_in_channels": 1, "conditioning_embedding_num_channels": (4,)},
    "Critic": {"in_shape": (1, 32, 32), **_STEPS},
    "DAF3D": {},
    "DenseNet121": {},
    "DiNTS": {"num_classes": 2},
    "DiffusionModelUNet": {**_DIFFUSION, "num_head_channels": 8},
    "Discriminator": {"in_shape": (1, 32, 32), **_STEPS},
    "DynUNet": {
        "kernel_size": (3, 3, 3),
        "strides": (1, 2, 2),
        "upsample_kernel_size": (2, 2),
        "filters": (4, 8, 16),
        "deep_supervision": True,
        "res_block": True,
    },
    "EfficientNetBN": {"model_name": "efficientnet-b0", "pretrained": False, "num_classes": 3},
    "FlexibleUNet": {"backbone": "efficientnet-b0"},
    "Generator": {"latent_shape": (8,), "start_shape": (16, 8, 8), "channels": (8, 4, 1), "strides": (2, 2, 1)},
    "GlobalNet": {"image_size": [32, 32], "num_channel_initial": 4, "depth": 3},
    "HighResNet": {},
    "HoVerNet": {"in_channels": 3},
    "LocalNet": {"num_channel_initial": 4, "extract_levels": (0, 1, 2)},
    "MaskedAutoEncoderViT": {
        **_PATCHES,
        "num_layers": 2,
        "decoder_hidden_size": 24,
        "decoder_mlp_dim": 48,
        "decoder_num_heads": 2,
        "decoder_num_layers": 1,
    },
    "MedNeXt": {**_MEDNEXT, "deep_supervision": True},
    "MedNeXtS": {"kernel_size": 3, **_PLANE},
    "MultiScalePatchDiscriminator": {"num_d": 2, "num_layers_d": 2, "channels": 4},
    "PatchDiscriminator": {"channels": 4},
    "Quicknat": {"num_filters": 8},
    "RegUNet": {"num_channel_initial": 4, "depth": 3},
    "Regressor": {"in_shape": (1, 32, 32), "out_shape": (2,), **_STEPS},
    "ResNet": {
        "block": "bottleneck",
        "layers": (1, 1, 1, 1),
        "block_inplanes": (8, 16, 24, 32),
        "num_classes": 3,
        "n_input_channels": 1,
    },
    "SENet": {**_SE, "block": "se_bottleneck", "groups": 4, "reduction": 16},
    "SEResNet50": {**_SE, **_PLANE},
    "SEResNext50": {**_SE, **_PLANE},
    "SPADEAutoencoderKL": {**_DIFFUSION, "latent_channels": 3, "label_nc": 2},
    "SPADEDiffusionModelUNet": {**_DIFFUSION, "num_head_channels": 8, "label_nc": 2},
    "SPADENet": {"label_nc": 2, "input_shape": [32, 32], "channels": [16, 8, 4], "z_dim": 8},
    "SegResNet": {},
    "SegResNetDS": {"init_filters": 8},
    "SegResNetDS2": {"init_filters": 8},
    "SegResNetVAE": {"input_image_size": (32, 32)},
    "SwinUNETR": {"feature_size": 12, "use_v2": True},
    "UNETR": {**_TRANSFORMER, "img_size": 32},
    "UNet": {**_STEPS, "strides": (2, 2), "num_res_units": 2},
    "VISTA3D": {"encoder_embed_dim": 16},
    "VNet": {},
    "VQVAE": {
        "channels": (8, 16),
        "num_res_channels": 8,
        "num_res_layers": 1,
        "downsample_parameters": ((2, 4, 1, 1),) * 2,
        "upsample_parameters": ((2, 4, 1, 1, 0),) * 2,
        "num_embeddings": 16,
        "embedding_dim": 8,
    },
    "VarAutoEncoder": {"in_shape": (1, 32, 32), "latent_size": 4, **_STEPS},
    "ViT": {**_PATCHES, "num_layers": 2, "classification": True, "num_classes": 3},
    "ViTAutoEnc": {**_PATCHES, "patch_size": 4, "num_layers": 2},
    "VoxelMorphUNet": {
        "in_channels": 2,
        "unet_out_channels": 4,
        "channels": (4, 4, 8, 8, 4, 4),
        "final_conv_channels": (4, 4),
    },
    "VoxelMorph": {},
}

_ALSO_IN_3D = (
    "AttentionUnet",
    "AutoEncoder",
    "AutoencoderKL",
    "BasicUNet",
    "BasicUNetPlusPlus",
    "DenseNet121",
    "DiffusionModelUNet",
    "DiNTS",
    "DynUNet",
    "HighResNet",
    "MedNeXt",
    "PatchDiscriminator",
    "ResNet",
    "SegResNet",
    "SegResNetDS",
    "UNet",
    "VNet",
    "VQVAE",
    "VoxelMorph",
)
_ONLY_IN_3D = ("DAF3D", "VISTA3D")
_SIDES = {"AHNet": 128, "DAF3D": 32, "HoVerNet": 256, "EfficientNetBN": 64, "SwinUNETR": 64}


@cache
def names() -> list[str]:
    """``BasicUNet``, and also ``BasicUNet-3d`` for those built in two and three dimensions."""
    return [*_ARGUMENTS, *(f"{kind}-3d" for kind in _ALSO_IN_3D)]


def build(name: str) -> Network:
    """Builds one for single-channel images."""
    kind = name.removesuffix("-3d")
    dimensions = 3 if kind != name or kind in _ONLY_IN_3D else 2
    arguments = deepcopy(_ARGUMENTS[kind])  # SPADENet modifies its arguments
    maker = _vista3d.vista3d132 if kind == "VISTA3D" else getattr(nets, kind)
    taken = inspect.signature(maker).parameters
    for key, value in (("spatial_dims", dimensions), ("in_channels", 1), ("out_channels", 2)):
        if key in taken:
            arguments.setdefault(key, value)
    parts = (
        {"dints_space": nets.TopologySearch(num_blocks=4, num_depths=3, spatial_dims=dimensions)}
        if kind == "DiNTS"
        else {}
    )
    model = maker(**parts, **arguments)
    image = images(arguments.get("in_channels", 1), *(_SIDES.get(kind, 32),) * dimensions)
    return Network(model, _inputs(kind, image), arguments)


def _inputs(kind: str, image: Tensor) -> tuple[Any, ...] | dict[str, Any]:
    """Inputs for a network: usually images."""
    steps, labels = torch.tensor([3, 7]), torch.cat([image, 1 - image], dim=1)
    match kind:
        case "ControlNet":
            return image, steps, image
        case "DiffusionModelUNet":
            return image, steps
        case "Generator":
            return (image.flatten(1)[:, :8],)
        case "SPADEAutoencoderKL":
            return image, labels
        case "SPADEDiffusionModelUNet":
            return image, steps, labels
        case "SPADENet":
            return labels, image
        case "VISTA3D":  # one image, and two classes to segment
            return {"input_images": image[:1], "class_vector": torch.tensor([[1], [2]])}
        case "VoxelMorph":
            return image, image.flip(-1)
    return (image,)
