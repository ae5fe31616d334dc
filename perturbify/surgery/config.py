"""What to put where: the settings of the pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Grain = Literal["element", "channel", "layer"]
Share = Literal["sample", "batch"]
Shared = Literal["call", "module"]
Backend = Literal["auto", "hook"]


@dataclass(frozen=True)
class PerturbConfig:
    """How noise is put into a network (Learn2Perturb, eq. 4-6).

    Attributes:
        grain: What one entry of θ scales. ``"element"`` gives each element of the feature map its own, shape
            (C, H, W), as in the paper; it fixes the input size. ``"channel"`` is one a channel, ``"layer"`` one a
            convolution call; both work at any input size.
        share: ``"sample"`` draws ε anew for every image, ``"batch"`` once for the whole batch.
        theta_init: The value every θ starts from, in units of the feature map; at least ``theta_min``.
        theta_min: The floor θ is projected to after each θ-step; positive.
        include: Globs over the dotted paths of the modules that convolve; empty means all.
        exclude: Globs over the same paths; wins over ``include``.
        shared: A convolution called k times gets k θ (``"call"``) or one for all its calls (``"module"``).
        backend: ``"auto"`` makes noise a node of the network's torch.fx graph, and a forward hook where torch.fx cannot
            go. ``"hook"`` uses hooks alone: the source's own forward runs, and its other methods
            (``forward_features``, …) work with the noise.

    Raises:
        ValueError: A setting is outside its range.
    """

    grain: Grain = "element"
    share: Share = "sample"
    theta_init: float = 0.25
    theta_min: float = 0.01
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    shared: Shared = "call"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for field, allowed in (("grain", Grain), ("share", Share), ("shared", Shared), ("backend", Backend)):
            value = getattr(self, field)
            if value not in get_args(allowed):
                raise ValueError(f"{field} must be one of {', '.join(get_args(allowed))}, not {value!r}")
        for field in ("include", "exclude"):
            globs = getattr(self, field)
            if not isinstance(globs, tuple) or not all(isinstance(g, str) for g in globs):
                raise ValueError(f"{field} must be a tuple of globs, not {globs!r}")
        if not (math.isfinite(self.theta_min) and self.theta_min > 0):
            raise ValueError(f"theta_min must be positive, not {self.theta_min}")
        if not (math.isfinite(self.theta_init) and self.theta_init >= self.theta_min):
            raise ValueError(f"theta_init {self.theta_init} must be finite and at least theta_min {self.theta_min}")
