"""transformers: the model of each architecture with a convolution in its own code, from a reduced configuration.

The architectures are those that transformers lists for its auto classes. One whose convolutions are all in a tower that
is a separate architecture (Llava's) is not listed.
"""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.census.libraries.network import Network, images
from perturbify.census.libraries.transformers_configs import WAYS, config
from perturbify.census.libraries.transformers_inputs import fitting
from perturbify.errors import ModelError

transformers: Any = importlib.import_module("transformers")
_auto: Any = importlib.import_module("transformers.models.auto.modeling_auto")
_module_name: Any = importlib.import_module("transformers.models.auto.configuration_auto").model_type_to_module_name

_LISTS = (
    "",
    "FOR_BACKBONE_",
    "FOR_DEPTH_ESTIMATION_",
    "FOR_SEMANTIC_SEGMENTATION_",
    "FOR_UNIVERSAL_SEGMENTATION_",
    "FOR_IMAGE_SEGMENTATION_",
    "FOR_OBJECT_DETECTION_",
    "FOR_KEYPOINT_DETECTION_",
    "FOR_KEYPOINT_MATCHING_",
    "FOR_IMAGE_MATTING_",
    "FOR_IMAGE_TO_IMAGE_",
    "FOR_POSE_ESTIMATION_",
    "FOR_MASK_GENERATION_",
    "FOR_NORMAL_ESTIMATION_",
    "FOR_POINTMAP_ESTIMATION_",
    "FOR_IMAGE_CLASSIFICATION_",
    "FOR_TABLE_RECOGNITION_",
    "FOR_TEXT_RECOGNITION_",
    "FOR_VIDEO_CLASSIFICATION_",
    "FOR_TEXT_TO_WAVEFORM_",
    "FOR_TEXT_TO_SPECTROGRAM_",
    "FOR_SPEECH_SEQ_2_SEQ_",
    "FOR_IMAGE_TEXT_TO_TEXT_",
    "FOR_MULTIMODAL_LM_",
)
"""Auto classes, by the middle of their mapping's name; an architecture belongs to the first that lists it."""
_LARGEST = 120_000_000
"""Maximum number of parameters of a network."""
_CONVOLUTION = re.compile(r"\bConv(Transpose)?[123]d\b|\bconv(_transpose)?[123]d\(")
_SAM: dict[str, Any] = {
    "prompt_encoder_config": {"hidden_size": 256, "image_size": 64, "image_embedding_size": 4},
    "mask_decoder_config": {"hidden_size": 256},
    "vision_config": {"image_size": 64, "patch_size": 16},
}
_HYBRIDS = (
    "BailingHybridModel",
    "JambaModel",
    "KimiLinearModel",
    "Lfm3Model",
    "Qwen3NextModel",
    "Qwen3_5MoeTextModel",
    "Qwen3_5TextModel",
    "Qwen4ExpTextModel",
    "RecurrentGemmaModel",
)
"""Networks whose first two layers lack the attention that their cache needs."""
_HYBRID_INSIDE = ("Lfm3VlModel", "Qwen3_5Model", "Qwen3_5MoeModel", "Qwen4ExpModel")
"""Networks with such a text model."""
_THREE_AXES = ("GlmOcrModel", "Qwen2VLModel", "Qwen2_5_VLModel")
"""Networks with three-part position embeddings, which split a head between them."""
_CLASS = re.compile(r"\b[A-Z]\w+")
_CONFIGS: dict[str, dict[str, Any]] = {
    **{name: {"use_cache": False} for name in _HYBRIDS},
    **{name: {"text_config": {"use_cache": False}} for name in _HYBRID_INSIDE},
    **{name: {"text_config": {"rope_parameters": {"mrope_section": [2, 3, 3]}}} for name in _THREE_AXES},
    "EomtDinov3ForUniversalSegmentation": {"num_blocks": 1, "num_hidden_layers": 4, "num_upscale_blocks": 1},
    "EomtForUniversalSegmentation": {"num_blocks": 1, "num_hidden_layers": 4, "num_upscale_blocks": 1},
    "RfDetrModel": {"num_queries": 4},
    "Sam2Model": {
        "vision_config": {
            "backbone_config": {"hidden_size": 96},
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        "prompt_encoder_config": {"hidden_size": 256, "image_size": 64},
        "mask_decoder_config": {"hidden_size": 256},
    },
    "SamHQModel": _SAM,
    "SamModel": _SAM,
    "SegGptModel": {"image_size": [64, 32]},
}
"""Settings that a reduced configuration needs for its parts to match."""
_NATIVE_SIZE = {
    "pixel_values": images(16, 768),
    "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
    "spatial_shapes": torch.tensor([[4, 4]] * 2),
}
_INPUTS: dict[str, dict[str, Any]] = {
    "GraniteSpeech5Encoder": {"input_features": images(64, 320)},
    "GraniteSpeech5ForCTC": {"input_features": images(64, 320)},
    "OneFormerModel": {"task_inputs": torch.ones(2, 77, dtype=torch.long)},
    "SeamlessM4TModel": {"input_features": images(64, 160)},
    "SeamlessM4Tv2Model": {"input_features": images(64, 160)},
    "SegGptModel": dict.fromkeys(("pixel_values", "prompt_pixel_values", "prompt_masks"), images(3, 32, 32)),
    "Siglip2Model": _NATIVE_SIZE,
    "Siglip2VisionModel": _NATIVE_SIZE,
    "VideoLlama3VisionModel": {"merge_sizes": torch.tensor([2, 2])},
    "Wav2Vec2BertModel": {"input_features": images(64, 160)},
}
"""Inputs that cannot be derived from the configuration."""
_LEFT_OUT = (
    # Their configurations are inconsistent, reduced or not.
    "Apertus1p5Model",
    "AutoformerModel",
    "BambaModel",
    "ChameleonModel",
    "DeepseekOcr2Model",
    "Dots3NoteModel",
    "Emu3Model",
    "Gemma3nModel",
    "Gemma4Model",
    "Gemma4TextModel",
    "Glm5NextModel",
    "Glm5NextTextModel",
    "GraniteMoeHybridModel",
    "HunYuanVLModel",
    "HunYuanVLTextModel",
    "InformerModel",
    "Inkling2LoopModel",
    "Inkling2Model",
    "Lfm2MoeModel",
    "Mamba2Model",
    "MoonshineStreamingModel",
    "MuseSparkAudioModel",
    "Nemotron3_5TranscribeModel",
    "PPOCRV5ServerDetForObjectDetection",
    "PPOCRV6MediumDetModel",
    "Qwen3OmniMoeForConditionalGeneration",
    "Zamba2Model",
    "ZambaModel",
    # They need inputs that cannot be derived from a configuration (masks, positions, sessions).
    "AudioFlamingo3Encoder",
    "AudioFlamingo3Model",
    "Blip2Model",
    "Blip2QFormerModel",
    "DeepseekVLHybridModel",
    "DepthProModel",
    "EdgeTamModel",
    "EdgeTamVideoModel",
    "EdgeTamVisionModel",
    "Florence2Model",
    "FunAsrNanoEncoder",
    "FunAsrNanoModel",
    "Gemma3nAudioEncoder",
    "Gemma4VisionModel",
    "Glm4vModel",
    "Glm4vMoeModel",
    "Glm4vMoeVisionModel",
    "Glm4vVisionModel",
    "GlmAsrModel",
    "GlmImageModel",
    "GlmImageVQVAE",
    "GraniteDoclingModel",
    "GraniteSpeechModel",
    "GraniteSpeechPlusModel",
    "Inkling2VisionModel",
    "InstructBlipModel",
    "InstructBlipVideoModel",
    "JanusModel",
    "Kimi_K25Model",
    "Kimi_K25VisionModel",
    "LlavaNextVideoModel",
    "LwDetrModel",
    "MimiDecoderModel",
    "MiniCPMOcrModel",
    "MiniCPMOcrVisionModel",
    "MiniCPMV4_6Model",
    "MiniCPMV4_7Model",
    "MiniCPMV4_7VisionModel",
    "MllamaModel",
    "Nemotron3_5TranscribeWordTimestampModel",
    "NeuCodecModel",
    "OmDetTurboForObjectDetection",
    "PPDocLayoutV2ForObjectDetection",
    "PPFormulaNetForConditionalGeneration",
    "PPOCRV6SmallDetModel",
    "PaddleOCRVLModel",
    "Pix2StructForConditionalGeneration",
    "PocketTTSAudioTokenizerDecoderModel",
    "Qwen2AudioModel",
    "Qwen2_5OmniThinkerModel",
    "Qwen3ASREncoder",
    "Sam2VideoModel",
    "Sam3LiteTextModel",
    "Sam3Model",
    "Sam3TrackerModel",
    "Sam3TrackerVideoModel",
    "SpeechT5Model",
    "Step3p7Model",
    "TvpModel",
    "UVDocModel",
    "UdopModel",
    "UnlimitedOcrModel",
    "VoxtralRealtimeModel",
    "Xcodec2Model",
    # They are large even with few layers.
    "HYV4VLModel",
    "HYV4VLTextModel",
    "Inkling2TextModel",
    "InklingModel",
    "InklingTextModel",
    "Kosmos2Model",
    "PeAudioVideoEncoder",
    "PeAudioVideoModel",
    "PeVideoEncoder",
    "PeVideoModel",
    "PerceiverModel",
    "Qwen2_5OmniForConditionalGeneration",
    "VibeVoiceAcousticTokenizerDecoderModel",
    "VibeVoiceAcousticTokenizerEncoderModel",
    "VibeVoiceAcousticTokenizerModel",
    "VibeVoiceAsrModel",
    # They need another package: natten, torchaudio.
    "DinatModel",
    "HiggsAudioV2TokenizerModel",
    # They make no convolution call.
    "CLIPTextModel",
    "DebertaV2Model",
    "Lfm2Model",
    "Nemotron3DiarizationAudioModel",
    "Nemotron3_5TranscribeAsrAudioModel",
    "Phi4MultimodalModel",
    "Siglip2Model",
    "Siglip2VisionModel",
    "YosoModel",
)


@cache
def names() -> list[str]:
    """``ConvNextModel`` and so on, in alphabetical order."""
    return sorted(name for name, kind in _architectures().items() if name not in _LEFT_OUT and _convolves(kind, name))


def build(name: str) -> Network:
    """Builds one from the smallest configuration that runs.

    Raises:
        ModelError: None runs.
    """
    way, inputs = _known(name)
    torch.manual_seed(0)
    return Network(_model(name, way), {k: v.clone() for k, v in inputs.items()}, {"small": list(way)})


@cache
def _known(name: str) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The first way to reduce the configuration that yields a running network, and the network's inputs."""
    for way in WAYS:
        with suppress(Exception):  # each reports inconsistent settings in its own way
            with torch.device("meta"):
                large = sum(p.numel() for p in _model(name, way).parameters()) > _LARGEST
            if not large and (inputs := fitting(_model(name, way), _INPUTS.get(name, {}))) is not None:
                return way, inputs
    raise ModelError(f"transformers:{name} accepts none of the inputs that the census knows, however it is built.")


def _model(name: str, way: tuple[str, ...]) -> nn.Module:
    kind = transformers.CONFIG_MAPPING[_architectures()[name]]
    model: nn.Module = getattr(transformers, name)(config(kind, way, _CONFIGS.get(name, {})))
    return model


@cache
def _architectures() -> dict[str, str]:
    """The model type of each class that represents an architecture."""
    classes: dict[str, str] = {}
    for middle in _LISTS:
        for kind, listed in getattr(_auto, f"MODEL_{middle}MAPPING_NAMES").items():
            classes.setdefault(kind, listed if isinstance(listed, str) else listed[0])
    return {name: kind for kind, name in reversed(classes.items())}


def _convolves(kind: str, name: str) -> bool:
    """Whether the code of a class, or of a class that it uses from the same file, has a convolution."""
    code = _code(_module_name(kind))
    reached, new = set[str](), {name} & set(code)
    while new:
        if any(_CONVOLUTION.search(code[one]) for one in new):
            return True
        reached |= new
        words = {word for one in new for word in _CLASS.findall(code[one])}
        new = words & set(code) - reached
    return False


@cache
def _code(module: str) -> dict[str, str]:
    """The code of each class of an architecture; empty if none has a convolution."""
    folder = Path(transformers.__file__).parent / "models" / module
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("modeling_*.py")))
    if not _CONVOLUTION.search(text):
        return {}
    parts = re.split(r"^class (\w+)", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
