"""Networks with inputs and outputs of every kind."""

import dataclasses
import functools
import itertools
import logging
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from networks.plain import conv


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
