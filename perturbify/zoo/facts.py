"""Facts about a network: what it was built from, the images it expects, and how they are normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from perturbify.channels import channels as taken
from perturbify.errors import ModelError
from perturbify.normalize import Normalize
from perturbify.zoo.build import skeleton
from perturbify.zoo.cifar_network import CifarNetwork
from perturbify.zoo.spec import NORMALIZATION, SPEC, ModelSpec

# The constants of the Learn2Perturb authors' release.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)

CLIP_FRAMES = 16  # the frames with which torchvision trained its video networks, if a network does not say


def describe(model: nn.Module) -> ModelSpec | None:
    """Returns what a network was built from.

    Args:
        model: A network of :func:`create` or :func:`build`, or one of ``timm.create_model``.

    Returns:
        Its tag; for an untagged timm model, a spec that builds a model with the same state-dict names, shapes and
        printed form; else None.
    """
    spec = getattr(model, SPEC, None)
    if spec is not None:
        return spec
    cfg = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, dict) or not cfg.get("architecture") or not hasattr(model, "num_classes"):
        return None
    name = ".".join(filter(None, (f"timm:{cfg['architecture']}", cfg.get("tag"))))
    try:
        spec = ModelSpec(name, {**_timm_arguments(model), "num_classes": model.num_classes}, "as given")
        twin = skeleton(spec)
    except (ModelError, KeyError):  # KeyError: an architecture that this timm version does not have
        return None
    same = _shapes(twin) == _shapes(model) and str(twin) == str(model)  # the shapes do not show the activations
    return spec if same else None


def input_size(model: nn.Module) -> tuple[int, ...] | None:
    """The size of a network's images, (C, H, W), from timm or torchvision; 32×32 if built in; clips (C, T, H, W)."""
    if isinstance(model, CifarNetwork):
        return model.in_chans, 32, 32
    if cfg := _timm_cfg(model):
        arguments = _timm_arguments(model)
        channels, *size = cfg["input_size"]
        size = arguments.get("img_size") or size
        height, width = (size, size) if isinstance(size, int) else size
        return int(arguments.get("in_chans") or taken(model) or channels), int(height), int(width)
    weights = _torchvision_weights(model)
    crop = getattr(weights and weights.transforms(), "crop_size", ())
    if weights and isinstance(side := getattr(model, "image_size", None), int):
        # torchvision's vision transformers: vit_h_14 is built for 224 pixels, but its weights are for 518.
        return 3, side, side
    if len(crop) == 2:  # the presets for images have one number, for clips two
        return 3, weights.meta.get("min_temporal_size") or CLIP_FRAMES, *crop
    return (3, crop[0], crop[0]) if crop else None


def normalization(model: nn.Module) -> Normalize | None:
    """How a network's images must be normalised.

    What its weights file states wins; then timm's configuration, the preset of torchvision's weights, or
    Learn2Perturb's CIFAR constants for built-in networks.

    Returns:
        A new layer for pixels in [0, 1]; None if nothing is known, as for a user's own network, or if the constants
        have another number of channels than the network.
    """
    stated = getattr(model, NORMALIZATION, None)
    if stated is not None:
        return Normalize(*stated)
    constants: tuple[Sequence[float], Sequence[float]] | None = None
    if isinstance(model, CifarNetwork):
        constants = CIFAR_MEAN, CIFAR_STD
    elif cfg := _timm_cfg(model):
        constants = cfg["mean"], cfg["std"]
    elif weights := _torchvision_weights(model):
        preset = weights.transforms()
        constants = (preset.mean, preset.std) if hasattr(preset, "mean") else None
    size = input_size(model)
    if constants is None or (size is not None and (size[0] != len(constants[0]) or len(size) > 3)):
        return None
    return Normalize(*constants)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _timm_cfg(model: nn.Module) -> dict[str, Any] | None:
    cfg = getattr(model, "pretrained_cfg", None)
    return cfg if isinstance(cfg, dict) and {"input_size", "mean", "std"} <= cfg.keys() else None


def _timm_arguments(model: nn.Module) -> dict[str, Any]:
    """The constructor's arguments: from the tag, or from timm itself (1.0.31 and later)."""
    spec = getattr(model, SPEC, None)
    return dict(spec.kwargs if spec else getattr(model, "_model_args", {}))


def _torchvision_weights(model: nn.Module) -> Any:
    """The default weights of a torchvision model, which state its inputs; None for any other."""
    spec = getattr(model, SPEC, None)
    if spec is None or not spec.name.startswith("torchvision:"):
        return None
    import torchvision

    return getattr(torchvision.models.get_model_weights(spec.name.partition(":")[2]), "DEFAULT", None)
