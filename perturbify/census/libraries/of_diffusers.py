"""diffusers: autoencoders, U-Nets, patch-based transformers, and their control networks, each with few channels."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from perturbify.census.libraries.diffusers_inputs import inputs
from perturbify.census.libraries.network import Network

diffusers: Any = importlib.import_module("diffusers")

_BLOCKS: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
_CROSS: dict[str, Any] = {**_BLOCKS, "cross_attention_dim": 16}
_TRANSFORMER: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
_VAE_4: dict[str, Any] = {**_BLOCKS, "block_out_channels": (8, 8, 16, 16), "latent_channels": 4}
_WAN: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}


def _types(down: str, up: str = "", *, then: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """Types of two down blocks and two up blocks."""
    types: dict[str, Any] = {"down_block_types": (then[0] or down, down)}
    return types | ({"up_block_types": (up, then[1] or up)} if up else {})


_ARGUMENTS: dict[str, dict[str, Any]] = {
    "AllegroTransformer3DModel": {
        **_TRANSFORMER,
        "cross_attention_dim": 32,
        "caption_channels": 16,
        "sample_height": 8,
        "sample_width": 8,
        "sample_frames": 4,
    },
    "AsymmetricAutoencoderKL": {
        "down_block_out_channels": (8, 16),
        "up_block_out_channels": (8, 16),
        "norm_num_groups": 4,
        **_types("DownEncoderBlock2D", "UpDecoderBlock2D"),
    },
    "AudioLDM2UNet2DConditionModel": {
        **_CROSS,
        "cross_attention_dim": (16, 16),
        "attention_head_dim": 4,
        **_types("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
    },
    "AutoencoderDC": {
        "encoder_block_out_channels": (8, 16),
        "decoder_block_out_channels": (8, 16),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "attention_head_dim": 4,
        "latent_channels": 4,
        "in_channels": 3,
    },
    "AutoencoderKL": {**_BLOCKS, **_types("DownEncoderBlock2D", "UpDecoderBlock2D")},
    "AutoencoderKLCogVideoX": _VAE_4,
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decode_block_out_channels": (8, 8, 8, 8),
        "attention_resolutions": (8,),
        "resolution": 64,
        "num_layers": 1,
        "latent_channels": 4,
    },
    "AutoencoderKLFlux2": _VAE_4,
    "AutoencoderKLHunyuanVideo": _VAE_4,
    "AutoencoderKLLTXVideo": {
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "latent_channels": 8,
    },
    "AutoencoderKLMagvit": _VAE_4,
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32, 32, 32, 32),
        "decoder_block_out_channels": (32, 32, 32, 32),
        "layers_per_block": (1, 1, 1, 1, 1),
        "latent_channels": 4,
        "latents_mean": (0.0,) * 4,
        "latents_std": (1.0,) * 4,
    },
    "AutoencoderKLQwenImage": _WAN,
    "AutoencoderKLTemporalDecoder": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        **_types("DownEncoderBlock2D"),
    },
    "AutoencoderKLWan": _WAN,
    "AutoencoderOobleck": {
        "encoder_hidden_size": 8,
        "downsampling_ratios": [2, 4],
        "channel_multiples": [1, 2],
        "decoder_channels": 8,
        "decoder_input_channels": 4,
        "audio_channels": 2,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    },
    "AutoencoderVidTok": {"ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1},
    "CogVideoXTransformer3DModel": {
        **_TRANSFORMER,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 16,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 9,
        "max_text_seq_length": 8,
    },
    "ConsistencyDecoderVAE": {
        "encoder_block_out_channels": (8, 16),
        "encoder_down_block_types": ("DownEncoderBlock2D",) * 2,
        "encoder_layers_per_block": 1,
        "encoder_norm_num_groups": 4,
        "decoder_block_out_channels": (8, 16),
        "decoder_down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "decoder_up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "decoder_layers_per_block": 1,
        "decoder_norm_num_groups": 4,
    },
    "ControlNetModel": {
        **_CROSS,
        "attention_head_dim": 4,
        **_types("CrossAttnDownBlock2D", then=("DownBlock2D", "")),
        "conditioning_embedding_out_channels": (8, 16),
    },
    "ControlNetUnionModel": {
        **_CROSS,
        "attention_head_dim": 4,
        **_types("CrossAttnDownBlock2D"),
        "conditioning_embedding_out_channels": (8, 16),
        "num_control_type": 2,
        "addition_time_embed_dim": 8,
        "num_trans_head": 2,
        "num_trans_channel": 8,
        "num_proj_channel": 8,
    },
    "DiTTransformer2DModel": {**_TRANSFORMER, "sample_size": 8, "norm_num_groups": 4},
    "HunyuanDiT2DModel": {
        **_TRANSFORMER,
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": 8,
        "hidden_size": 32,
        "cross_attention_dim": 16,
        "cross_attention_dim_t5": 16,
        "pooled_projection_dim": 16,
        "text_len": 4,
        "text_len_t5": 4,
    },
    "HunyuanVideoTransformer3DModel": {
        **_TRANSFORMER,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 6, 6),
    },
    "I2VGenXLUNet": {
        **_CROSS,
        "attention_head_dim": 4,
        **_types("CrossAttnDownBlock3D", "CrossAttnUpBlock3D", then=("DownBlock3D", "UpBlock3D")),
    },
    "Kandinsky3UNet": {
        "time_embedding_dim": 16,
        "groups": 2,
        "attention_head_dim": 4,
        "layers_per_block": 2,
        "block_out_channels": (8, 16, 32, 64),
        "cross_attention_dim": 16,
        "encoder_hid_dim": 16,
    },
    "LatteTransformer3DModel": {
        **_TRANSFORMER,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 8,
        "cross_attention_dim": 32,
        "caption_channels": 16,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "video_length": 2,
    },
    "MochiTransformer3DModel": {
        **_TRANSFORMER,
        "in_channels": 4,
        "pooled_projection_dim": 16,
        "text_embed_dim": 16,
        "time_embed_dim": 4,
        "max_sequence_length": 8,
    },
    "PixArtTransformer2DModel": {
        **_TRANSFORMER,
        "cross_attention_dim": 32,
        "caption_channels": 16,
        "sample_size": 8,
        "norm_num_groups": 4,
        "use_additional_conditions": False,
    },
    "SD3Transformer2DModel": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 16,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 16,
        "pos_embed_max_size": 8,
    },
    "SanaTransformer2DModel": {
        **_TRANSFORMER,
        "in_channels": 4,
        "out_channels": 4,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": 16,
        "sample_size": 8,
    },
    "SparseControlNetModel": {
        **_CROSS,
        "attention_head_dim": 4,
        **_types("CrossAttnDownBlockMotion", then=("DownBlockMotion", "")),
        "conditioning_embedding_out_channels": (8, 16),
        "motion_num_attention_heads": 2,
    },
    "StableCascadeUNet": {
        "in_channels": 4,
        "out_channels": 4,
        "conditioning_dim": 16,
        "timestep_ratio_embedding_dim": 8,
        "block_out_channels": (16, 32),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "clip_text_pooled_in_channels": 16,
    },
    "T2IAdapter": {"channels": [8, 8, 16, 16], "num_res_blocks": 1},
    "Transformer2DModel": {**_TRANSFORMER, "in_channels": 32, "norm_num_groups": 4, "cross_attention_dim": 16},
    "UNet1DModel": {"extra_in_channels": 64},
    "UNet2DConditionModel": {
        **_CROSS,
        "attention_head_dim": 4,
        **_types("CrossAttnDownBlock2D", "CrossAttnUpBlock2D", then=("DownBlock2D", "UpBlock2D")),
    },
    "UNet2DModel": {
        **_BLOCKS,
        "attention_head_dim": 4,
        **_types("AttnDownBlock2D", "AttnUpBlock2D", then=("DownBlock2D", "UpBlock2D")),
    },
    "UNet3DConditionModel": {
        **_CROSS,
        "attention_head_dim": 4,
        **_types("CrossAttnDownBlock3D", "CrossAttnUpBlock3D", then=("DownBlock3D", "UpBlock3D")),
    },
    "UNetMotionModel": {
        **_CROSS,
        "num_attention_heads": 2,
        "motion_num_attention_heads": 2,
        **_types("CrossAttnDownBlockMotion", "CrossAttnUpBlockMotion", then=("DownBlockMotion", "UpBlockMotion")),
    },
    "UNetSpatioTemporalConditionModel": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "num_attention_heads": (2, 4),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "num_frames": 2,
        **_types(
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
            then=("DownBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        ),
    },
    "UVit2DModel": {
        "hidden_size": 32,
        "cond_embed_dim": 16,
        "micro_cond_encode_dim": 4,
        "micro_cond_embed_dim": 20,
        "encoder_hidden_size": 16,
        "vocab_size": 20,
        "codebook_size": 16,
        "in_channels": 16,
        "block_out_channels": 16,
        "num_res_blocks": 1,
        "block_num_heads": 2,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "sample_size": 8,
        "downsample": True,
        "upsample": True,
    },
    "VQModel": {
        **_BLOCKS,
        "latent_channels": 3,
        "num_vq_embeddings": 16,
        **_types("DownEncoderBlock2D", "UpDecoderBlock2D"),
    },
    "WanTransformer3DModel": {
        **_TRANSFORMER,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 32,
    },
}


@cache
def names() -> list[str]:
    """``UNet2DModel`` and so on."""
    return list(_ARGUMENTS)


def build(name: str) -> Network:
    """Builds one."""
    arguments = _ARGUMENTS[name]
    return Network(getattr(diffusers, name)(**arguments), inputs(name), arguments)
