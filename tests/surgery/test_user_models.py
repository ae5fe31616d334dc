"""Networks as their owners write them: each is wrapped, and asked eight questions."""

import copy
import dataclasses
import functools
import itertools
import logging
import pickle
import random
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import PerturbifyError, SurgeryError, TraceError
from perturbify.perturbation import Perturbation
from perturbify.surgery.copying import copy_network
from perturbify.surgery.sites import ConvolutionCount

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # of reentrant checkpointing
    pytest.mark.filterwarnings("ignore:Using `torch.compile"),  # of the survey's global hooks
]

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WAVES = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(0))


def conv(inside=3, outside=4, size=3, **options):
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


@dataclass
class Settings:
    width: int = 4
    activation: str = "gelu"
    stages: list = field(default_factory=lambda: [4, 6])
    meta: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(author="someone", year=2021))


class ThirdParty(nn.Module):
    registry = {"gelu": F.gelu, "relu": F.relu}  # noqa: RUF012
    Output = namedtuple("Output", "logits")

    def __init__(self, cfg=None, **overrides):
        super().__init__()
        self.cfg = dataclasses.replace(cfg or Settings(), **overrides)
        self.log = logging.getLogger(__name__)
        self.shrink = lambda x: x * 0.5
        self.act = functools.partial(self.registry[self.cfg.activation])
        self.__dict__["_hidden"] = {"calls": [], self: "a module as a key"}
        self.build, self.rng = nn.Conv2d, np.random.default_rng(0)
        widths = [3, *self.cfg.stages]
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"stage_{i}", self.build(a, b, 3, padding=1))
        self.head = nn.Linear(widths[-1], 5)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(m):
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)

    @property
    def device(self):
        return next(self.parameters()).device

    def forward(self, x):
        x = x.to(self.device)
        assert x.dim() == 4, f"images, not {x.shape}"
        for i in range(len(self.cfg.stages)):
            x = self.act(getattr(self, f"stage_{i}")(x))
        return self.head(self.shrink(x).mean([2, 3]))


class Varargs(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(conv() for _ in range(2))

    def forward(self, *views):
        return sum(c(v) for c, v in zip(self.convs, views, strict=True))


class Kwargs(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleDict({"left": conv(), "right": conv()})

    def forward(self, **views):
        return {name: self.convs[name](view) for name, view in views.items()}


class KeywordOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, *, pixel_values, gain=2.0, return_dict=False):
        out = self.conv(pixel_values) * gain
        return {"out": out} if return_dict else out


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.prompt = conv(), conv(1, 4, 1)

    def forward(self, x, mask=None, prompt=None, scale: float = 1.0):
        x = self.conv(x) * scale
        if mask is not None:
            x = x + self.prompt(mask)
        return x if prompt is None else x * prompt


class Detection(OrderedDict):
    """As the outputs of transformers: a dataclass, a dict and a tuple at once."""

    def __init_subclass__(cls):
        dataclass(cls)

    def __post_init__(self):
        for f in dataclasses.fields(self):
            if getattr(self, f.name) is not None:
                super().__setitem__(f.name, getattr(self, f.name))

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]

    def __reduce__(self):
        return type(self), tuple(getattr(self, f.name) for f in dataclasses.fields(self))


class BoxOutput(Detection):
    logits: torch.Tensor = None
    boxes: torch.Tensor = None
    loss: torch.Tensor = None


@dataclass
class Maps:
    first: torch.Tensor
    rest: list


class Namespace(dict):
    """A dict whose keys are attributes, as so many projects have one."""

    __getattr__ = dict.__getitem__

    def __reduce__(self):
        return type(self), (dict(self),)


class Bag:
    def __init__(self, **values):
        self.__dict__.update(values)


class Outputs(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.stem, self.head = kind, conv(), conv(4, 2, 1)

    def forward(self, x):
        a = self.stem(x)
        b = self.head(a)
        if self.kind == "tuple":
            return a, (b, [b.mean()])
        if self.kind == "dict":
            return {"a": a, "deep": {"b": b, "n": 3}}
        if self.kind == "dataclass":
            return Maps(a, [b, a.mean()])
        if self.kind == "ModelOutput":
            return BoxOutput(logits=a, boxes=b)
        if self.kind == "distribution":
            return torch.distributions.Normal(b, a.mean().exp())
        return self.kind(a=a, b=b)


class Plain(nn.Module):
    """What the modifications below are applied to."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = conv(), nn.BatchNorm2d(4), conv(4, 4, groups=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.conv1(x)))
        return self.fc(self.conv2(x).mean((2, 3)))


def normed(norm):
    network = Plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises against the old ones, which are still in use
        norm(network.conv1)
        norm(network.conv2)
    return network


def weight_norm_by_hook():
    return normed(nn.utils.weight_norm)


def spectral_norm_by_hook():
    return normed(nn.utils.spectral_norm)


def lora():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["conv1", "conv2"], lora_dropout=0.1, init_lora_weights=False)
    network = Plain()
    network.conv2 = conv(4, 4)
    return peft.get_peft_model(network, config)


def merged_lora():
    return lora().merge_and_unload()


def pruned(permanent):
    network = Plain()
    prune.l1_unstructured(network.conv1, "weight", amount=0.4)
    prune.ln_structured(network.conv2, "weight", amount=0.5, n=2, dim=0)
    if permanent:
        prune.remove(network.conv1, "weight")
        prune.remove(network.conv2, "weight")
    return network


class Containers(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList([conv(3, 3), nn.BatchNorm2d(3)]) for _ in range(2))
        self.branches = nn.ModuleDict({"near": conv(3, 4, 1), "far": conv(3, 4, 3, dilation=1)})
        self.scales = nn.ParameterDict({"near": nn.Parameter(torch.ones(1)), "far": nn.Parameter(torch.ones(1))})

    def forward(self, x):
        for i, (convolve, norm) in enumerate(self.stages):
            x = x + norm(convolve(x)) * (i + 1)
        return sum(self.scales[k] * branch(x) for k, branch in self.branches.items())


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()
        self.up, self.head = nn.LazyConvTranspose2d(4, 3), nn.LazyLinear(5)

    def forward(self, x):
        return self.head(self.up(self.norm(self.conv(x))).flatten(1))


def lazy_once_run():
    network = Lazy()
    network(IMAGES)
    return network


class DoubleConv(nn.Sequential):
    def __init__(self, a, b):
        super().__init__(conv(a, b, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([DoubleConv(3, 4), DoubleConv(4, 6)])
        self.bottom = DoubleConv(6, 8)
        self.up = nn.ModuleList([nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ConvTranspose2d(6, 4, 2, stride=2)])
        self.merge = nn.ModuleList([DoubleConv(12, 6), DoubleConv(8, 4)])
        self.head = conv(4, 2, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = up(x, output_size=skip.shape[-2:])
            missing = skip.shape[-1] - x.shape[-1]
            x = merge(torch.cat([skip, F.pad(x, [missing // 2, missing - missing // 2])], dim=1))
        return self.head(x)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(conv(), nn.ReLU(), conv(4, 4))
        self.twin = self.encoder  # the same module by a second name
        self.tied = conv()
        self.tied.weight = self.encoder[0].weight  # and another with the same weights

    def forward(self, a, b):
        a, b = self.encoder(a) + self.tied(a), self.twin(b)
        return F.pairwise_distance(a.flatten(1), b.flatten(1))


class ConvLSTMCell(nn.Module):
    def __init__(self, inside, hidden):
        super().__init__()
        self.hidden = hidden
        self.gates = conv(inside + hidden, 4 * hidden)

    def init_hidden(self, n, size):
        return tuple(torch.zeros(n, self.hidden, *size, device=self.gates.weight.device) for _ in range(2))

    def forward(self, x, state):
        h, c = state
        i, f, o, g = torch.split(self.gates(torch.cat([x, h], dim=1)), self.hidden, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class ConvLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = ConvLSTMCell(3, 4), conv(4, 2, 1)

    def forward(self, frames):
        n, t, _, h, w = frames.size()
        state, seen = self.cell.init_hidden(n, (h, w)), []
        for i in range(t):
            state = self.cell(frames[:, i], state)
            seen.append(self.head(state[0]))
        return torch.stack(seen, dim=1), state


class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = conv(), conv(4, 4)
        self.exits = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 5)])

    def forward(self, x):
        bright = x.mean() > 0.9
        x = self.stem(x)
        if not self.training and bright:
            return self.exits[0](x.mean((2, 3)))
        return self.exits[1](self.body(x.relu()).mean((2, 3)))


class OwnWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.zeros(4))
        self.up = nn.Parameter(torch.randn(4, 2, 2, 2))
        self.register_buffer("sobel", torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).expand(2, 1, 3, 3).clone())

    def forward(self, x):
        std, mean = torch.std_mean(self.kernel, dim=(1, 2, 3), keepdim=True)
        x = F.conv2d(x, (self.kernel - mean) / (std + 1e-5), self.bias, stride=2, padding=1)
        x = F.conv_transpose2d(input=x, weight=self.up, stride=2)
        return F.conv2d(x, self.sobel, groups=2)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(4, 4, 2, stride=2))
        self.to_mu, self.to_logvar = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2, stride=2),
            nn.SiLU(),
            nn.ConvTranspose2d(4, 3, 3, 2, padding=1, output_padding=1),
        )

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x):
        h = self.encode(x)
        mu, logvar = self.to_mu(h), self.to_logvar(h)
        z = self.reparameterize(mu, logvar) if self.training else mu
        return self.decode(z).sigmoid(), mu, logvar


class Checkpointing(nn.Module):
    def __init__(self, reentrant=False):
        super().__init__()
        self.reentrant = reentrant
        self.gradient_checkpointing = True
        self.stem = conv()
        self.blocks = nn.ModuleList(nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2))
        self.tail = nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
            else:
                x = block(x)
        return checkpoint_sequential(self.tail, 2, x, use_reentrant=self.reentrant) if self.training else self.tail(x)


class ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.weight * gradient, None


class ReverseGradientBare(ReverseGradient):
    """Its forward computes nothing that a graph could record."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x


class RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s * (1 + x * (1 - s)))


class OwnGradients(nn.Module):
    """Domain-adversarial: the sign of a gradient turns on the way back."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.features, self.domain = conv(), conv(4, 2, 1)

    def forward(self, x):
        h = self.features(x)
        args = (h, 0.5) if issubclass(self.function, ReverseGradient) else (h,)
        return self.domain(self.function.apply(*args))


class ConvolvingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight.sign())

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return (
            nn.grad.conv2d_input(x.shape, weight.sign(), gradient),
            nn.grad.conv2d_weight(x, weight.shape, gradient),
        )


class BinaryWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.weight = conv(), nn.Parameter(torch.randn(2, 4, 3, 3))

    def forward(self, x):
        return ConvolvingFunction.apply(self.stem(x), self.weight)


class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, 4, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=2**i) for i in range(3))
        self.skip = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))
        self.up = nn.ConvTranspose1d(4, 1, 2, stride=2)

    def forward(self, wave):
        x, out = self.stem(wave), 0
        for dilated, skip in zip(self.dilated, self.skip, strict=True):
            filtered, gate = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, dim=1)
            y = skip(torch.tanh(filtered) * torch.sigmoid(gate))
            x, out = x + y, out + y
        return self.up(F.avg_pool1d(out, 2))


class Spectrogram(nn.Module):
    def __init__(self, n_fft=16):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.conv, self.mask = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, wave):
        wave = wave.squeeze(1)
        spectrum = torch.stft(wave, self.n_fft, self.n_fft // 2, window=self.window, return_complex=True)
        parts = torch.view_as_real(spectrum).permute(0, 3, 1, 2)
        mask = self.mask(F.relu(self.conv(parts))).permute(0, 2, 3, 1)
        masked = spectrum * torch.view_as_complex(mask.contiguous())
        return torch.istft(masked, self.n_fft, self.n_fft // 2, window=self.window), masked


class OwnTrain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = conv(), nn.BatchNorm2d(4), conv(4, 4)
        self.drop = nn.Dropout(0.5)
        self.aux = conv(4, 2, 1)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        self.conv1.requires_grad_(False)
        return self

    def forward(self, x):
        x = self.drop(self.conv2(self.norm(self.conv1(x))))
        return (x, self.aux(x)) if self.training else x


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv()
        self.convs = [conv(4, 4), conv(4, 4)]  # where nn.Module does not look

    def forward(self, x):
        x = self.stem(x)
        for convolve in self.convs:
            x = convolve(x)
        return x


class RegisteredAndListed(nn.Module):
    """A list that only remembers what is registered elsewhere."""

    def __init__(self):
        super().__init__()
        self.order = []
        for i in range(2):
            block = nn.Sequential(conv(3, 3), nn.ReLU())
            self.add_module(f"block{i}", block)
            self.order.append(block)
        self.last = [self.order[-1][0]]

    def forward(self, x):
        for block in self.order:
            x = block(x)
        return self.last[0](x)


def stubs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch.ao.quantization import DeQuantStub, QuantStub

        class Quantizable(Plain):
            def __init__(self):
                super().__init__()
                self.quant, self.dequant = QuantStub(), DeQuantStub()
                self.add = nn.quantized.FloatFunctional()

            def forward(self, x):
                x = self.conv1(self.quant(x))
                return self.dequant(self.add.add(x, self.conv2(self.norm(x))))

        return Quantizable()


class OwnNorm(nn.Module):
    def __init__(self, channels, momentum=0.1):
        super().__init__()
        self.momentum = momentum
        self.gain, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.mean = (1 - self.momentum) * self.mean + self.momentum * mean
                self.var.lerp_(var, self.momentum)
                self.steps += 1
        else:
            mean, var = self.mean, self.var
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * self.gain[:, None, None] + self.shift[:, None, None]


class OwnConvNorm(OwnNorm):
    """The same, with the convolution inside: torch.fx must not take its buffers for constants."""

    def __init__(self, inside, channels):
        super().__init__(channels)
        self.conv = conv(inside, channels)

    def forward(self, x):
        return super().forward(self.conv(x))


class WeightStandardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, w, self.bias)


class KeepsLoss(nn.Module):
    """Leaves a loss behind in an attribute, as many VAEs and mixtures of experts do."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.penalty, self.history = conv(), conv(4, 2, 1), 0.0, []

    def forward(self, x):
        h = self.conv(x)
        self.penalty = h.square().mean()
        self.history.append(h.shape[0])
        return self.head(h)


class KeepsFeatures(nn.Module):
    """Taps its own layers with forward hooks."""

    def __init__(self):
        super().__init__()
        self.conv, self.body = conv(), nn.Sequential(conv(4, 4), nn.ReLU())
        self.features = {}
        self.conv.register_forward_hook(self.keep)
        self.body.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.features[type(module).__name__] = output

    def forward(self, x):
        return self.body(self.conv(x))


class OnItsDevice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x):
        parameter = next(self.parameters())
        x = x.to(device=parameter.device, dtype=parameter.dtype)
        return self.conv(x + torch.arange(x.shape[-1], device=parameter.device) * 0.1)


class Autocasting(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = conv(), conv(4, 4)

    def forward(self, x):
        x = self.stem(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.body(x)
        return x.float()


class OwnCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def __call__(self, images):
        return super().__call__(images * 2 - 1)

    def forward(self, x):
        return self.conv(x)


class CompiledMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    @torch.compile(backend="eager")
    def features(self, x):
        return self.conv(x)

    def forward(self, x):
        return self.features(x).relu()


def compiled_in_place():
    network = Plain()
    network.compile(backend="eager")
    return network


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch advise against scripting
        return torch.jit.script(module)


def scripted_activation():
    # Without weights: torch's own deepcopy of a scripted module makes them non-leaf tensors.
    return nn.Sequential(conv(), scripted(nn.Sequential(nn.Hardswish(), nn.AvgPool2d(2))), conv(4, 2))


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
MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def snapshot(network):
    return {
        "class": type(network),
        "modes": {p: m.training for p, m in network.named_modules()},
        "state": {k: v.clone() for k, v in network.state_dict().items()},
        "identities": {k: id(v) for k, v in (*network.named_parameters(), *network.named_buffers())},
        "requires_grad": {k: v.requires_grad for k, v in network.named_parameters()},
        "grads": {k: v.grad for k, v in network.named_parameters()},
        "attributes": {p: {k: id(v) for k, v in vars(m).items()} for p, m in network.named_modules()},
        "hooks": {p: [*m._forward_hooks, *m._forward_pre_hooks] for p, m in network.named_modules()},
    }


@pytest.fixture(scope="module", params=MODELS)
def user(request):
    make, example = MODELS[request.param]
    torch.manual_seed(0)
    source = make()
    before = snapshot(source)
    wrapped = perturbify.wrap(source, example_input=example)
    return SimpleNamespace(source=source, wrapped=wrapped, example=example, before=before, after=snapshot(source))


def call(network, example, *, images=2, seed=5, grad=False):
    """Output of a forward with the first ``images`` images of the example, and more of them made of the same."""
    resized = pytree.tree_map(lambda t: torch.cat([t, t.flip(0) * 0.9])[:images].detach(), example)
    if isinstance(example, torch.Tensor):
        resized.requires_grad_(example.requires_grad)
    args, kwargs = ((), resized) if isinstance(resized, dict) else (resized, {})
    if seed is not None:
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
    with torch.set_grad_enabled(grad):
        return network(*(args if isinstance(args, tuple) else (args,)), **kwargs)


def twin(network, training):
    """A copy that may run; by perturbify's own way, as not every network here supports ``copy.deepcopy``."""
    return copy_network(network).train(training)


def tensors(output):
    if isinstance(output, torch.distributions.Normal):
        output = [output.loc, output.scale]
    elif isinstance(output, Namespace):
        output = dict(output)
    elif dataclasses.is_dataclass(output) or isinstance(output, (SimpleNamespace, Bag)):
        output = dict(vars(output))
    return [t for t in pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]


def assert_equal(got, want):
    assert type(got) is type(want)
    ours, theirs = tensors(got), tensors(want)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)


def backward(output):
    for t in tensors(output):
        if t.requires_grad:  # nothing does where every weight is frozen and the noise is off
            t.abs().square().sum().backward(retain_graph=True)


@MODES
def test_as_many_calls_as_the_source_convolves(user, training):
    mode = "train" if training else "eval"
    with ConvolutionCount() as count:
        call(twin(user.source, training), user.example)
    plan = user.wrapped.surgery.plan
    found = [c for c in (*plan.sites, *plan.skipped) if c.modes in (mode, "both")]
    assert len(found) == count.total > 0
    assert {s.reason for s in plan.skipped} <= {"fixed filter, nothing learned"}
    assert plan.modes == ("eval", "train")


@MODES
@pytest.mark.parametrize("images", [2, 3])
def test_noise_off_is_the_source(user, training, images):
    source, wrapped = twin(user.source, training), twin(user.wrapped, training)
    with perturbify.noise(wrapped, enabled=False):
        for _ in range(2):
            assert_equal(call(wrapped, user.example, images=images), call(source, user.example, images=images))
    buffers = dict(wrapped.named_buffers())
    for name, value in source.named_buffers():
        assert torch.equal(buffers[name], value), name


@MODES
def test_gradients_with_the_noise_off_are_the_sources(user, training):
    source, wrapped = twin(user.source, training), twin(user.wrapped, training)
    backward(call(source, user.example, grad=True))
    with perturbify.noise(wrapped, enabled=False):
        backward(call(wrapped, user.example, grad=True))
    theirs, ours = dict(source.named_parameters()), dict(wrapped.named_parameters())
    for name, parameter in theirs.items():
        assert (ours[name].grad is None) == (parameter.grad is None), name
        assert parameter.grad is None or torch.equal(ours[name].grad, parameter.grad), name


@MODES
def test_noise_on_is_fresh_at_every_site(user, training):
    wrapped = twin(user.wrapped, training)
    noisy = []
    for name, perturbation in perturbify.perturbations(wrapped):
        perturbation.register_forward_hook(
            lambda _m, inputs, output, name=name: noisy.append((name, bool((inputs[0] != output).float().mean() > 0.9)))
        )
    one, two = (call(wrapped, user.example, seed=None) for _ in range(2))
    assert all(not torch.equal(a, b) for a, b in zip(tensors(one), tensors(two), strict=True))
    mode = "train" if training else "eval"
    expected = [(s.name, True) for s in wrapped.surgery.plan.sites if s.modes in (mode, "both")]
    assert sorted(noisy) == sorted(expected * 2)


def test_the_source_is_left_as_it_was(user):
    before, after = dict(user.before), dict(user.after)
    state, now = before.pop("state"), after.pop("state")
    assert before == after
    assert list(state) == list(now)
    assert all(torch.equal(value, now[name]) for name, value in state.items())


def test_a_backward_pass_reaches_every_theta(user):
    reached = set()
    for training in (False, True):
        wrapped = twin(user.wrapped, training)
        backward(call(wrapped, user.example, grad=True))
        reached |= {n for n, p in perturbify.perturbations(wrapped) if p.theta.grad is not None and p.theta.grad.any()}
    assert reached == {s.name for s in user.wrapped.surgery.plan.sites}


def test_unwrapped_it_is_the_source_again(user):
    bare = perturbify.unwrap(user.wrapped)
    assert type(bare) is type(user.source)
    assert bare.training == user.source.training
    assert bare.state_dict().keys() == user.source.state_dict().keys()
    assert set(vars(bare)) == set(vars(user.source)) - {"_compiled_call_impl"}  # which nn.Module itself does not copy
    assert not any(isinstance(m, Perturbation) for m in bare.modules())
    for training in (False, True):
        assert_equal(call(twin(bare, training), user.example), call(twin(user.source, training), user.example))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_it_copies_where_the_source_does(user, copied):
    try:
        call(copied(user.source), user.example)
    except Exception as error:
        pytest.skip(f"the source does not: {error}")
    for training in (False, True):
        wrapped = twin(user.wrapped, training)
        one, other = copied(wrapped), copied(wrapped)
        assert one.training == training
        assert_equal(call(one, user.example), call(wrapped, user.example))
        with perturbify.noise(other, enabled=False):
            assert_equal(call(other, user.example), call(twin(user.source, training), user.example))


def test_every_key_of_the_source_survives(user):
    ours, theirs = user.wrapped.state_dict(), user.source.state_dict()
    thetas = {n for n, _ in user.wrapped.named_parameters(remove_duplicate=False) if n.endswith(".theta")}
    thetas |= {"perturb.theta"} & set(ours)
    assert thetas >= {f"{s.path}.theta" for s in user.wrapped.surgery.plan.sites}
    assert set(ours) == set(theirs) | thetas
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    trained = twin(user.wrapped, True)
    assert trained.load_state_dict(theirs, strict=False).unexpected_keys == []


def refusal(network, error, example=IMAGES, **settings):
    """The sentence of an error, which must be one that a person can act on."""
    with pytest.raises(error) as caught:
        perturbify.wrap(network, PerturbConfig(**settings), example_input=example)
    assert isinstance(caught.value, PerturbifyError)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_lazy_network_that_was_never_run_is_wrapped_or_asks_for_a_run():
    sentence = refusal(Lazy(), PerturbifyError)
    assert "Lazy" in sentence
    assert "once" in sentence
    assert len(sentence) < 250


def test_a_lazy_convolution_that_was_never_run():
    source = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())
    wrapped = perturbify.wrap(source, example_input=IMAGES)
    assert source[0].has_uninitialized_params()
    assert not torch.equal(wrapped(IMAGES), wrapped(IMAGES))
    source.load_state_dict(perturbify.unwrap(wrapped).state_dict())
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(IMAGES), source(IMAGES))


def test_convolutions_in_a_python_list_are_refused():
    sentence = refusal(InAList(), TraceError)
    assert "Conv2d" in sentence
    assert "nn.ModuleList" in sentence


def test_a_convolution_inside_of_a_custom_function_is_refused():
    assert "F.conv2d on a learned weight" in refusal(BinaryWeights(), TraceError)
    plan = perturbify.plan(BinaryWeights(), PerturbConfig(exclude=("",)), example_input=IMAGES)
    assert [s.name for s in plan.sites] == ["stem"]
    assert [s.reason for s in plan.skipped] == ["in exclude"]


@pytest.mark.parametrize(
    "make", [scripted, lambda m: torch.jit.trace(m, torch.rand(2, 4, 8, 8))], ids=["script", "trace"]
)
def test_a_scripted_convolution_inside_is_refused(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = nn.Sequential(conv(), make(nn.Sequential(conv(4, 4), nn.ReLU())))
        sentence = refusal(network, TraceError)
    assert sentence.startswith("1")
    assert "scripted from" in sentence


def test_a_scripted_network_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "scripted" in refusal(scripted(Plain()), SurgeryError)


@pytest.mark.parametrize("run", [False, True], ids=["never run", "run"])
@pytest.mark.parametrize("backend", ["auto", "hook"])
def test_compiled_convolutions_are_refused(backend, run):
    """Their compiled code is cached without the noise, and does not look whether a hook came later."""
    inside = nn.Sequential(conv(), torch.compile(nn.Sequential(nn.ReLU(), conv(4, 4)), backend="eager"))
    for network, culprit in ((inside, "1"), (torch.compile(Plain(), backend="eager"), "OptimizedModule")):
        if run:
            with torch.no_grad():
                network.eval()(IMAGES)
        sentence = refusal(network, SurgeryError, backend=backend)
        assert sentence.startswith(f"{culprit} is compiled")
        assert "_orig_mod" in sentence


@pytest.mark.parametrize("backend", ["auto", "hook"])
def test_a_convolution_in_a_compiled_method_is_refused(backend):
    source = CompiledMethod().eval()
    with torch.no_grad():
        source(IMAGES)
    assert refusal(source, SurgeryError, backend=backend).startswith("CompiledMethod is compiled")


def test_a_network_compiled_in_place_and_wrapped_in_place():
    for network in (Plain(), nn.Sequential(Plain())):
        for module in network.modules():
            module.compile(backend="eager")
        with torch.no_grad():
            network.eval()(IMAGES)
        wrapped = perturbify.wrap(network, example_input=IMAGES, inplace=True)
        assert not torch.equal(wrapped(IMAGES), wrapped(IMAGES))


def test_a_call_method_of_its_own_is_refused():
    assert "__call__" in refusal(OwnCall(), SurgeryError)


def test_an_early_exit_that_wrapping_did_not_see():
    bright = torch.ones_like(IMAGES)
    wrapped = perturbify.wrap(EarlyExit(), example_input=IMAGES).eval()
    source = perturbify.unwrap(wrapped)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(bright), source(bright))
        assert not torch.equal(wrapped(IMAGES), wrapped(bright))
    assert not torch.equal(wrapped(bright), wrapped(bright))
    early = perturbify.wrap(EarlyExit(), example_input=bright).eval()
    assert {s.name: s.modes for s in early.surgery.plan.sites} == {"stem": "both", "body": "train"}
    assert not torch.equal(early(IMAGES), early(IMAGES))


def test_what_a_forward_leaves_in_its_attributes_is_left_in_the_wrapped_ones():
    source = KeepsLoss()
    wrapped = perturbify.wrap(source, example_input=IMAGES)
    assert wrapped.history == []
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(IMAGES), source(IMAGES))
    assert torch.equal(wrapped.penalty, source.penalty)
    assert wrapped.history == source.history == [2]
    wrapped.penalty.backward()
    assert wrapped.conv.weight.grad is not None


def test_what_hooks_keep_is_kept_by_the_wrapped_and_by_its_copies():
    source = KeepsFeatures()
    wrapped = perturbify.wrap(source, example_input=IMAGES)
    for network in (wrapped, copy.deepcopy(wrapped)):
        with perturbify.noise(network, enabled=False):
            assert torch.equal(network(IMAGES), source(IMAGES))
        assert set(network.features) == {"Conv2d", "Sequential"}
        assert all(torch.equal(value, source.features[name]) for name, value in network.features.items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_still_computes_twice(reentrant):
    source = Checkpointing(reentrant)
    wrapped = perturbify.wrap(source, example_input=IMAGES.clone().requires_grad_())
    counts = []
    for network in (source, wrapped):
        with ConvolutionCount() as count:
            network(IMAGES.clone().requires_grad_()).sum().backward()
        counts.append(count.total)
    assert counts[1] >= counts[0] > 5


def test_a_network_that_freezes_its_layers_in_train_does_not_freeze_the_noise():
    wrapped = perturbify.wrap(OwnTrain(), example_input=IMAGES).eval().train()
    assert not wrapped.conv1.weight.requires_grad
    assert all(p.theta.requires_grad for _, p in perturbify.perturbations(wrapped))


def test_lora_keeps_its_base_frozen_and_merges_after_unwrapping():
    wrapped = perturbify.wrap(lora(), example_input=IMAGES).eval()
    owners = {s.owner.rpartition("conv1.")[2] for s in wrapped.surgery.plan.sites if ".conv1." in s.owner}
    assert owners == {"base_layer", "lora_A.default", "lora_B.default"}
    trainable = {n for n, p in wrapped.named_parameters() if p.requires_grad}
    assert {n for n in trainable if "lora_" not in n} == {
        n for n, _ in wrapped.named_parameters() if n.endswith("base_layer.perturb.theta")
    }
    bare = perturbify.unwrap(wrapped)
    want = bare(IMAGES)
    torch.testing.assert_close(bare.merge_and_unload()(IMAGES), want)
