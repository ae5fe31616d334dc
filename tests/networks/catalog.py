"""Every network that wrapping has to leave right, and what it is called with."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.utils import parametrizations

from networks.architectures import VAE, Containers, ConvLSTM, EarlyExit, OwnWeights, Siamese, Spectrogram, UNet, WaveNet
from networks.gradients import (
    Checkpointing,
    OwnGradients,
    ReverseGradient,
    ReverseGradientBare,
    RoundStraightThrough,
    Swish,
)
from networks.habits import (
    Autocasting,
    KeepsFeatures,
    KeepsLoss,
    OnItsDevice,
    OwnCall,
    OwnConvNorm,
    OwnNorm,
    OwnTrain,
    RegisteredAndListed,
    WeightStandardized,
)
from networks.interfaces import Bag, KeywordOnly, Kwargs, Namespace, Optional, Outputs, ThirdParty, Varargs
from networks.modified import (
    compiled_in_place,
    lazy_once_run,
    lora,
    merged_lora,
    normed,
    pruned,
    scripted_activation,
    spectral_norm_by_hook,
    stubs,
    weight_norm_by_hook,
)
from networks.plain import IMAGES, Plain, conv

WAVES = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(0))
CLIP = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(1))

MODELS = {
    "third party": (ThirdParty, IMAGES),
    "sequential": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), conv(4, 2)), IMAGES),
    "*args": (Varargs, (IMAGES, IMAGES * 2)),
    "**kwargs": (Kwargs, {"left": IMAGES, "right": IMAGES * 2}),
    "keyword-only": (KeywordOnly, {"pixel_values": IMAGES}),
    "optional, left out": (Optional, IMAGES),
    "optional, given": (Optional, {"x": IMAGES, "mask": IMAGES[:, :1]}),
    "tuple": (lambda: Outputs("tuple"), IMAGES),
    "dict": (lambda: Outputs("dict"), IMAGES),
    "dataclass": (lambda: Outputs("dataclass"), IMAGES),
    "ModelOutput": (lambda: Outputs("ModelOutput"), IMAGES),
    "dict subclass": (lambda: Outputs(Namespace), IMAGES),
    "namespace": (lambda: Outputs(SimpleNamespace), IMAGES),
    "plain object": (lambda: Outputs(Bag), IMAGES),
    "distribution": (lambda: Outputs("distribution"), IMAGES),
    "weight_norm": (lambda: normed(parametrizations.weight_norm), IMAGES),
    "weight_norm by hook": (weight_norm_by_hook, IMAGES),
    "spectral_norm": (lambda: normed(parametrizations.spectral_norm), IMAGES),
    "spectral_norm by hook": (spectral_norm_by_hook, IMAGES),
    "LoRA": (lora, IMAGES),
    "LoRA, merged": (merged_lora, IMAGES),
    "pruned": (lambda: pruned(permanent=False), IMAGES),
    "pruned for good": (lambda: pruned(permanent=True), IMAGES),
    "ModuleList and ModuleDict": (Containers, IMAGES),
    "lazy, run once": (lazy_once_run, IMAGES),
    "bare convolution": (conv, IMAGES),
    "U-Net": (UNet, IMAGES),
    "siamese": (Siamese, (IMAGES, IMAGES.flip(-1))),
    "ConvLSTM": (ConvLSTM, CLIP),
    "early exit": (EarlyExit, IMAGES),
    "own weights": (OwnWeights, IMAGES),
    "VAE": (VAE, IMAGES),
    "checkpointing": (Checkpointing, IMAGES),
    "checkpointing, reentrant": (lambda: Checkpointing(reentrant=True), IMAGES.clone().requires_grad_()),
    "gradient reversal": (lambda: OwnGradients(ReverseGradient), IMAGES),
    "gradient reversal, bare": (lambda: OwnGradients(ReverseGradientBare), IMAGES),
    "straight-through": (lambda: OwnGradients(RoundStraightThrough), IMAGES),
    "memory-saving swish": (lambda: OwnGradients(Swish), IMAGES),
    "audio": (WaveNet, WAVES),
    "STFT": (Spectrogram, WAVES),
    "own train()": (OwnTrain, IMAGES),
    "own __call__": (OwnCall, IMAGES),
    "registered and listed": (RegisteredAndListed, IMAGES),
    "quantization stubs": (stubs, IMAGES),
    "own norm": (lambda: nn.Sequential(conv(), OwnNorm(4), nn.ReLU(), OwnConvNorm(4, 4)), IMAGES),
    "weight standardization": (lambda: nn.Sequential(WeightStandardized(3, 4, 3), nn.ReLU()), IMAGES),
    "keeps a loss": (KeepsLoss, IMAGES),
    "keeps features": (KeepsFeatures, IMAGES),
    "on its device": (OnItsDevice, IMAGES),
    "autocast inside": (Autocasting, IMAGES),
    "DataParallel": (lambda: nn.DataParallel(Plain()), IMAGES),
    "compiled in place": (compiled_in_place, IMAGES),
    "scripted activation": (scripted_activation, IMAGES),
}
