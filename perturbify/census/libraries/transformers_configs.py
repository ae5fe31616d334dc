"""Reduced configurations of transformers: fewer and narrower layers, a small vocabulary, a small image."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

_WIDTHS = {
    "hidden_size": 64,
    "out_hidden_size": 64,
    "d_model": 64,
    "intermediate_size": 128,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "encoder_num_hidden_layers",
    "decoder_num_hidden_layers",
    "depth",
)
_STAGE_DEPTHS = ("depths", "num_blocks", "layer_depths")
_OF_LAYERS = ("layer_types", "mlp_layer_types", "layers_block_type")
"""Settings with one entry per layer, which the configuration generates itself."""
_VOCABULARY = 128


WAYS = (
    ("width", "size", "vocabulary"),
    ("width", "vocabulary"),
    ("size", "vocabulary"),
    ("vocabulary",),
    ("size",),
    (),
)
"""Settings to reduce in addition to the number of layers, smallest first."""


def config(kind: type[PreTrainedConfig], way: tuple[str, ...], given: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a small network.

    Args:
        kind: Its class.
        way: One of :data:`WAYS`.
        given: Settings that take precedence; nested for nested configurations.
    """
    return kind.from_dict(_merged(_small(kind().to_dict(), way), given))


def _merged(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    both = dict(values)
    for key, value in given.items():
        inner = both.get(key)
        both[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


def _small(values: dict[str, Any], way: tuple[str, ...]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    layers = min(values.get("num_hidden_layers") or 0, max(2, len(values.get("out_features") or ())))
    for key, value in values.items():
        if isinstance(value, dict) and key.endswith("config"):
            value = _small(value, way)
        elif key in _OF_LAYERS:
            continue
        elif key == "num_hidden_layers" and isinstance(value, int):
            value = layers
        elif key in _DEPTHS and _is_number(value):
            value = min(value, 2)
        elif key in _STAGE_DEPTHS and isinstance(value, (list, tuple)) and all(map(_is_number, value)):
            value = [min(v, 2) for v in value]
        elif "width" in way and key in _WIDTHS and _is_number(value):
            value = min(value, _WIDTHS[key])
        elif "size" in way and key == "image_size" and isinstance(value, (int, list, tuple)):
            value = _side(value, values.get("patch_size"))
        elif "vocabulary" in way and key == "vocab_size" and _is_number(value):
            value = min(value, _VOCABULARY)
        small[key] = value
    if "vocabulary" in way:
        _renumber_tokens(small)
    if "depths" not in values and layers and values.get("out_features"):
        _renumber_stages(small, layers)
    return small


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _side(value: Any, patch: Any) -> Any:
    """A side of four patches, in the original form."""
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    side = 4 * patch if _is_number(patch) and patch > 8 else 64
    return side if isinstance(value, int) else [side] * len(value)


def _renumber_tokens(values: dict[str, Any]) -> None:
    """Moves special tokens beyond the small vocabulary into it."""
    free = iter(range(_VOCABULARY - 1, 0, -1))
    for key, value in values.items():
        if key.endswith(("_token_id", "_token_index")) and _is_number(value) and value >= _VOCABULARY:
            values[key] = next(free)


def _renumber_stages(values: dict[str, Any], layers: int) -> None:
    """Makes a transformer with few layers output the features of its last ones."""
    count = len(values["out_features"])
    stages = range(layers - count + 1, layers + 1)
    values["out_features"] = [f"stage{i}" for i in stages]
    values["out_indices"] = list(stages)
