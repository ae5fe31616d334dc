"""How pixels are normalised before a network: the decision, its source in words, and a trial of a guess."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perturbify.errors import ModelError
from perturbify.normalize import Normalize
from perturbify.zoo.cifar_network import CifarNetwork
from perturbify.zoo.facts import CIFAR_MEAN, CIFAR_STD, describe, normalization
from perturbify.zoo.names import is_factory
from perturbify.zoo.spec import NORMALIZATION

Given = Normalize | Literal["inside"] | None
"""The user's choice: a layer, ``"inside"`` for a network that takes pixels in [0, 1] as they are, or nothing."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_CONSTANTS = (("mean", "std"), ("mu", "sigma"), ("mean", "sd"))  # the usual attribute names
_SECONDS = 8.0  # the longest time for a trial
_SURE = 1e-4  # how improbable a better result must be by chance
_CLEARLY = 0.05  # and by which share of the images it must be ahead


@dataclass(frozen=True)
class Statistics:
    """The constants of a dataset.

    Attributes:
        name: Name of the data.
        mean: Mean of the pixels in [0, 1], one number a channel.
        std: Their standard deviation, positive.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Normalization:
    """How pixels in [0, 1] reach a network.

    Attributes:
        layer: Runs before the network; None: they go in as they are.
        source: The source of the decision, in words.
        guess: Whether nothing confirms that the weights were trained this way.
    """

    layer: Normalize | None
    source: str
    guess: bool = False

    def __str__(self) -> str:
        if self.layer is None:
            return f"Pixels go into the network as they are, in [0, 1] ({self.source})"
        return f"Pixels are normalised before the network: {in_words(self.layer)} ({self.source})"


def decide(
    model: nn.Module, data: Statistics | None, given: Given = None, *, channels: int | None = None
) -> Normalization:
    """Decides how pixels reach a plain network.

    The user's choice wins; then a normalising layer of the network's own; what its weights file states; what the
    library says about its own weights. Otherwise it is a guess: the library's default for the architecture, or the
    data's statistics. Fresh weights get the data's, which is not a guess.

    Args:
        model: The network, from :func:`perturbify.zoo.create` or elsewhere.
        data: The constants of the images, if any.
        given: The user's choice.
        channels: Channels of an image, if known; a single given number then applies to all of them.

    Raises:
        ModelError: The given layer has another number of channels than the images.
    """
    if given == "inside":
        return Normalization(None, "as given")
    if given is not None:
        return Normalization(_for_channels(given, channels), "as given")
    if part := _inside(model):
        return Normalization(None, f"the network normalises inside, by {part}")
    learned, spec = normalization(model), describe(model)
    if hasattr(model, NORMALIZATION) and learned is not None:
        return Normalization(learned, "from the weights file's own mean and std")
    weights = "" if spec is None else spec.weights
    # A factory may return a trained network.
    fresh = spec is not None and weights == "fresh" and not is_factory(spec.name)
    own = None if data is None else Normalize(data.mean, data.std)
    if fresh and own is not None and data is not None:
        return Normalization(own, f"from the statistics of {data.name}, as the weights are fresh")
    if learned is not None:
        whose = _whose(model)
        if weights.startswith("pretrained"):
            return Normalization(learned, f"from {whose} configuration of these weights")
        if fresh:
            return Normalization(learned, f"{whose} default for this architecture; the weights are fresh")
        return Normalization(learned, f"GUESSED from {whose} default for this architecture", guess=True)
    if own is not None and data is not None:
        return Normalization(own, f"GUESSED from the statistics of {data.name}", guess=True)
    nothing = "nothing says how its images must be normalised"
    return Normalization(None, f"{nothing}; the weights are fresh" if fresh else f"GUESSED: {nothing}", guess=not fresh)


def in_words(layer: Normalize) -> str:
    """The constants of a layer: ``"mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"``."""
    mean, std = (", ".join(f"{v:.4g}" for v in part) for part in layer.constants)
    return f"mean {mean}, std {std}"


@dataclass(frozen=True)
class Trial:
    """The results of a guess and its alternatives on the same labelled images.

    Attributes:
        images: Number of images.
        right: How many are right with the guess.
        better: The best alternative that is significantly ahead, and how many are right with it; or None.
        tried: Number of alternatives.
    """

    images: int
    right: int
    better: tuple[Normalization, int] | None
    tried: int


@torch.no_grad()
def tried(
    model: nn.Module, guess: Normalization, data: Statistics | None, batches: Iterable[tuple[Tensor, Tensor]]
) -> Trial | None:
    """Compares a guess with the usual constants, by accuracy on labelled images; the decision stays the same.

    Args:
        model: A classifier, plain.
        guess: The result of :func:`decide`.
        data: The constants of the images.
        batches: Images in [0, 1] and their labels; after some seconds no more are read.

    Returns:
        The result; None if the network does not return logits for these labels, or there are no images.
    """
    alternatives = _alternatives(guess, data)
    hits: list[list[Tensor]] = [[] for _ in range(1 + len(alternatives))]
    started, modes = time.monotonic(), {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            for x, y in batches:
                for hit, candidate in zip(hits, (guess, *alternatives), strict=True):
                    layer = candidate.layer
                    logits = model((x if layer is None else layer(x)).to(device))
                    hit.append(logits.argmax(1).cpu() == y)
                if time.monotonic() - started > _SECONDS:
                    break
    except Exception:  # it does not take such images, or is not a classifier: using it will raise
        return None
    finally:
        for module, training in modes.items():
            module.training = training
    if not hits[0]:
        return None
    first, *others = (torch.cat(hit) for hit in hits)
    ahead = [
        (candidate, int(hit.sum()))
        for candidate, hit in zip(alternatives, others, strict=True)
        if _clearly_better(first, hit, len(alternatives))
    ]
    return Trial(len(first), int(first.sum()), max(ahead, key=lambda found: found[1], default=None), len(alternatives))


def _alternatives(guess: Normalization, data: Statistics | None) -> list[Normalization]:
    """The usual constants, without the guess."""
    channels = len(data.mean) if data else 3
    usual: list[tuple[Normalize | None, str]] = [
        (None, "as they are"),
        (Normalize([0.5] * channels, [0.5] * channels), ""),
    ]
    if channels == 3:
        usual += [(Normalize(*IMAGENET), ""), (Normalize(CIFAR_MEAN, CIFAR_STD), "")]
    if data is not None:
        usual.append((Normalize(data.mean, data.std), ""))
    return [Normalization(layer, source) for layer, source in usual if not _same(layer, guess.layer)]


def _same(one: Normalize | None, other: Normalize | None) -> bool:
    return one is other if one is None or other is None else one.constants == other.constants


def _clearly_better(first: Tensor, other: Tensor, alternatives: int) -> bool:
    """Whether the other is right significantly more often (McNemar's exact test, corrected for the alternatives)."""
    won, lost = int((other & ~first).sum()), int((first & ~other).sum())
    n = won + lost
    if won - lost < _CLEARLY * len(first):
        return False
    return alternatives * sum(math.comb(n, k) for k in range(won, n + 1)) / 2**n < _SURE


def _for_channels(layer: Normalize, channels: int | None) -> Normalize:
    have = layer.mean.numel()
    if channels is None or have == channels:
        return layer
    if have == 1:
        mean, std = layer.constants
        return Normalize(mean * channels, std * channels)
    raise ModelError(
        f"The normalisation has {have} numbers for mean and std, but the images have {channels} channels.",
        "Use one number a channel, or one for all.",
    )


def _inside(model: nn.Module) -> str | None:
    """What normalises pixels in a network, if that is visible: a layer in front, or constants next to the layers."""
    if _has_constants(
        vars(model) | dict(model.named_buffers(recurse=False)) | dict(model.named_parameters(recurse=False))
    ):
        return f"constants of {type(model).__name__}"
    if transform := next((c for c in model.children() if hasattr(c, "image_mean")), None):  # in torchvision's detectors
        return type(transform).__name__
    for name, child in model.named_children():
        said = type(child).__name__.lower()
        if "normaliz" in said or "normalis" in said:
            parts = vars(child) | dict(child.named_buffers(recurse=False)) | dict(child.named_parameters(recurse=False))
            if _has_constants(parts):
                return f"{type(child).__name__} ({name!r})"
        if isinstance(child, nn.Sequential) and (found := _inside(child)):
            return found
        break  # after the first layer, what is normalised is no longer pixels
    return None


def _has_constants(values: dict[str, Any]) -> bool:
    named = {name.strip("_"): value for name, value in values.items()}
    return any(_few(named.get(first)) and _few(named.get(second)) for first, second in _CONSTANTS)


def _few(value: Any) -> bool:
    """Whether a value is one number a channel, or one for all."""
    if isinstance(value, Tensor):
        return 0 < value.numel() <= 16
    return isinstance(value, (float, int)) or (isinstance(value, Sequence) and 0 < len(value) <= 16)


def _whose(model: nn.Module) -> str:
    if isinstance(model, CifarNetwork):
        return "the Learn2Perturb authors'"
    return "timm's" if isinstance(getattr(model, "pretrained_cfg", None), dict) else "torchvision's"
