"""Inputs for transformers' networks, by their names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.census.libraries.network import images
from perturbify.generators import reproducible

_SAMPLES = 4000
_TOKENS = 8
_DENSE = ("pixel_values", "pixel_values_videos", "input_features", "input_values")
_PLACES = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")


def fitting(model: nn.Module, given: dict[str, Any]) -> dict[str, Any] | None:
    """Keyword inputs that a network accepts in eval mode; None if no known ones work.

    Args:
        model: The network.
        given: Inputs that it needs in addition to those derived from its configuration.
    """
    model.eval()
    for form in _forms(model):
        inputs = form | given
        for _ in range(4):
            try:
                with reproducible(model):
                    model(**inputs)
                return inputs
            except Exception as error:
                more = _with_places(inputs, model.config, str(error))
                if more is None:
                    break
                inputs = more
    return None


def _with_places(inputs: dict[str, Any], config: Any, complaint: str) -> dict[str, Any] | None:
    """The inputs with as many image or sound tokens in the text as there are features."""
    features = re.search(r"features:? \[?(\d+)", complaint)
    special = next((i for i in (_said(config, n) for n in _PLACES) if i is not None), None)
    if "mm_token_type_ids" in complaint and special is not None and "mm_token_type_ids" not in inputs:
        return {**inputs, "mm_token_type_ids": (inputs["input_ids"] == special).long()}
    if features is None or special is None or "input_ids" not in inputs:
        return None
    each = int(features[1]) // 2
    width = _said(config, "hidden_size")
    before = inputs["input_ids"].shape[1] - _TOKENS
    if before:  # holds the number of their values
        each = before // width if before == each and width else 0
    return {**inputs, "input_ids": tokens(special, count=each)} if 0 < each < 5000 else None


def _forms(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Keyword inputs to try, most likely first."""
    taken = inspect.signature(model.forward).parameters
    config: Any = model.config
    rest = {name: tokens() for name in ("input_ids", "decoder_input_ids") if name in taken}
    said: Any = model.main_input_name
    main = said if isinstance(said, str) else said[0]
    if "grid_thw" in taken:
        yield {next(iter(taken)): patches(config), "grid_thw": torch.tensor([[1, 4, 4]] * 2)}
    found = next((n for n in (main, *_DENSE) if n in taken and n != "input_ids"), None)
    if found is None:
        yield rest
        return
    if "image_grid_thw" in taken:
        vision = getattr(config, "vision_config", config)
        yield {found: patches(vision), "image_grid_thw": torch.tensor([[1, 4, 4]] * 2), **rest}
    for value in _values(found, config):
        yield {found: value, **rest}
        if "decoder_input_ids" in rest and "input_ids" in rest:
            yield {found: value, "input_ids": rest["input_ids"]}


def tokens(special: int = 0, *, count: int = 0) -> Tensor:
    """Two texts, each starting with the given number of special tokens."""
    return torch.tensor([[special] * count + list(range(3, 3 + _TOKENS))] * 2)


def patches(config: Any) -> Tensor:
    """Flattened 4 × 4 patches of two images."""
    channels = getattr(config, "in_channels", getattr(config, "num_channels", 3))
    return images(16, channels * getattr(config, "temporal_patch_size", 1) * config.patch_size**2).flatten(0, 1)


def _values(name: str, config: Any) -> Iterator[Tensor]:
    """Tensors in the forms that images, videos or sounds can have."""
    if name.startswith("pixel_values"):
        channels = _said(config, "num_channels") or 3
        channels = channels if isinstance(channels, int) else 3
        side = _said(config, "image_size")
        side = side[0] if isinstance(side, (list, tuple)) else side
        for s in dict.fromkeys([side] if isinstance(side, int) and side <= 1024 else [64, 128, 224]):
            frames = _said(config, "num_frames") or 2
            yield images(channels, s, s)
            yield images(frames, channels, s, s)
        if side and side < 128:
            yield images(channels, 128, 128)
            yield images(2, channels, 128, 128)
        yield images(channels, 224, 224)
    elif name == "input_values":
        yield images(_SAMPLES)
        yield images(1, _SAMPLES)
        yield images(_said(config, "max_length") or 128, _said(config, "num_mel_bins") or 128)
        yield images(1, 16000)
        yield images(16000)
    else:
        bins = _said(config, "num_mel_bins") or _said(config, "feature_size") or _said(config, "input_dim") or 80
        frames = 2 * (_said(config, "max_source_positions") or 64)
        yield images(bins, frames)
        yield images(128, bins)
        yield images(64, bins)
        yield images(1, 128, bins)


def _said(config: Any, name: str) -> Any:
    """A setting of a configuration, or of one nested in it."""
    for one in (config, *(v for k, v in vars(config).items() if k.endswith("config") and hasattr(v, "to_dict"))):
        value = getattr(one, name, None)
        if value is not None:
            return value
    return None
