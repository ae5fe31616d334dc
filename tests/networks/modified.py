"""Networks that a library went over: normed, pruned, adapted, made lazy, compiled, scripted, quantizable."""

import warnings

import torch
from torch import nn
from torch.nn.utils import prune

from networks.plain import IMAGES, Plain, conv


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
    from peft import LoraConfig, get_peft_model  # takes seconds

    config = LoraConfig(r=2, target_modules=["conv1", "conv2"], lora_dropout=0.1, init_lora_weights=False)
    network = Plain()
    network.conv2 = conv(4, 4)
    return get_peft_model(network, config)


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
