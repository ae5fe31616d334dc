"""Inputs for diffusers' networks, in batches of two: images, videos or sounds to encode, or noisy data and a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perturbify.census.libraries.network import images


def inputs(name: str) -> dict[str, Any]:
    """Inputs for a network.

    Args:
        name: Its class.
    """
    if name in ("Transformer2DModel",):
        return {"hidden_states": images(32, 8, 8), "encoder_hidden_states": images(4, 16)}
    if name == "T2IAdapter":
        return {"x": images(3, 32, 32)}
    if name == "AutoencoderOobleck":
        return {"sample": images(2, 64)}
    if name in ("AutoencoderKLMochi",):
        return {"sample": images(3, 7, 32, 32)}
    if name in _VIDEO_CODECS:
        return {"sample": images(3, _VIDEO_CODECS[name], 32, 32)}
    if name.startswith(("Autoencoder", "VQ", "Asymmetric", "Consistency")):
        frames = {"num_frames": 1} if name == "AutoencoderKLTemporalDecoder" else {}
        return {"sample": images(3, 32, 32), **frames}
    return _DENOISERS[name]()


_VIDEO_CODECS = {
    "AutoencoderKLCogVideoX": 5,
    "AutoencoderKLCosmos": 9,
    "AutoencoderKLHunyuanVideo": 5,
    "AutoencoderKLLTXVideo": 9,
    "AutoencoderKLMagvit": 5,
    "AutoencoderKLQwenImage": 5,
    "AutoencoderKLWan": 5,
    "AutoencoderVidTok": 5,
}
"""Number of video frames for each network."""


def _denoising(*size: int, text: int = 16, name: str = "sample", **more: Any) -> dict[str, Any]:
    """A noisy image or video, a time step, and a text of four tokens."""
    return {name: images(*size), "timestep": torch.tensor([3, 7]), "encoder_hidden_states": images(4, text), **more}


def _mask(tokens: int = 4) -> Tensor:
    return torch.ones(2, tokens, dtype=torch.long)


_DENOISERS: dict[str, Callable[[], dict[str, Any]]] = {
    "AllegroTransformer3DModel": lambda: _denoising(
        4,
        2,
        8,
        8,
        name="hidden_states",
        encoder_hidden_states=images(1, 4, 16),
        encoder_attention_mask=_mask(),
        attention_mask=torch.ones(2, 2, 8, 8),
    ),
    "AudioLDM2UNet2DConditionModel": lambda: _denoising(4, 16, 16),
    "CogVideoXTransformer3DModel": lambda: _denoising(
        3, 4, 8, 8, name="hidden_states", encoder_hidden_states=images(8, 16)
    ),
    "ControlNetModel": lambda: _denoising(4, 16, 16, controlnet_cond=images(3, 32, 32)),
    "ControlNetUnionModel": lambda: _denoising(
        4,
        16,
        16,
        controlnet_cond=[images(3, 32, 32)],
        control_type=torch.tensor([[1.0, 0.0]] * 2),
        control_type_idx=[0],
        conditioning_scale=[1.0],
    ),
    "DiTTransformer2DModel": lambda: {
        "hidden_states": images(4, 8, 8),
        "timestep": torch.tensor([3, 7]),
        "class_labels": torch.tensor([1, 2]),
    },
    "HunyuanDiT2DModel": lambda: _denoising(
        4,
        8,
        8,
        name="hidden_states",
        timestep=torch.tensor([3.0, 7.0]),
        text_embedding_mask=_mask(),
        encoder_hidden_states_t5=images(4, 16),
        text_embedding_mask_t5=_mask(),
        image_meta_size=torch.ones(2, 6),
        style=torch.tensor([0, 0]),
        image_rotary_emb=[torch.ones(16, 16), torch.zeros(16, 16)],
    ),
    "HunyuanVideoTransformer3DModel": lambda: _denoising(
        4,
        2,
        8,
        8,
        name="hidden_states",
        encoder_attention_mask=_mask(),
        pooled_projections=images(8),
        guidance=torch.tensor([6.0, 6.0]),
    ),
    "I2VGenXLUNet": lambda: _denoising(
        4, 2, 16, 16, fps=torch.tensor([16, 16]), image_latents=images(4, 2, 16, 16), image_embeddings=images(16)
    ),
    "Kandinsky3UNet": lambda: _denoising(4, 16, 16, encoder_attention_mask=_mask()),
    "LatteTransformer3DModel": lambda: _denoising(4, 2, 8, 8, name="hidden_states"),
    "MochiTransformer3DModel": lambda: _denoising(
        4, 2, 8, 8, name="hidden_states", encoder_hidden_states=images(8, 16), encoder_attention_mask=_mask(8).bool()
    ),
    "PixArtTransformer2DModel": lambda: _denoising(
        4, 8, 8, name="hidden_states", added_cond_kwargs={"resolution": None, "aspect_ratio": None}
    ),
    "SD3Transformer2DModel": lambda: _denoising(4, 8, 8, name="hidden_states", pooled_projections=images(16)),
    "SanaTransformer2DModel": lambda: _denoising(4, 8, 8, name="hidden_states"),
    "SparseControlNetModel": lambda: _denoising(
        4,
        2,
        16,
        16,
        encoder_hidden_states=images(4, 16).repeat(2, 1, 1),
        controlnet_cond=images(4, 2, 16, 16),
        conditioning_mask=torch.ones(2, 1, 2, 16, 16),
    ),
    "StableCascadeUNet": lambda: {
        "sample": images(4, 8, 8),
        "timestep_ratio": torch.tensor([0.3, 0.7]),
        "clip_text_pooled": images(1, 16),
    },
    "UNet1DModel": lambda: {"sample": images(2, 64), "timestep": torch.tensor([3, 7])},
    "UNet2DConditionModel": lambda: _denoising(4, 16, 16),
    "UNet2DModel": lambda: {"sample": images(3, 32, 32), "timestep": torch.tensor([3, 7])},
    "UNet3DConditionModel": lambda: _denoising(4, 2, 16, 16),
    "UNetMotionModel": lambda: _denoising(4, 2, 16, 16, encoder_hidden_states=images(4, 16).repeat(2, 1, 1)),
    "UNetSpatioTemporalConditionModel": lambda: _denoising(2, 8, 16, 16, added_time_ids=images(3)),
    "UVit2DModel": lambda: {
        "input_ids": torch.arange(128).reshape(2, 8, 8) % 16,
        "encoder_hidden_states": images(4, 16),
        "pooled_text_emb": images(16),
        "micro_conds": images(5),
    },
    "WanTransformer3DModel": lambda: _denoising(4, 2, 8, 8, name="hidden_states"),
}
