"""Which noise goes where: the settings of the surgery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from perturbify import numbers
from perturbify.arguments import described
from perturbify.errors import WrongType, nearest

SiteKind = Literal["output", "activation", "input", "norm", "addition", "weight", "parameter"]
Scale = Literal["absolute", "relative", "posterior"]
Grain = Literal["element", "channel", "layer"]
DrawPer = Literal["sample", "batch"]
ThetaPer = Literal["call", "module"]
Extent = Literal["all", "first"]

WEIGHT_SITES = ("weight", "parameter")
"""Sites whose noise is on what a network has learned rather than on what it computes."""


@dataclass(frozen=True)
class PerturbConfig:
    """How noise is put into a network; the defaults are Learn2Perturb's (eq. 4-6).

    Attributes:
        grain: What one entry of θ scales. ``"element"`` gives each element of the feature map (or weight) its own,
            shape (C, H, W), as in the paper; on feature maps it fixes the input size. ``"channel"`` is one per channel
            (of a weight: one per index of its first dimension, the output channel of all but transposed convolutions),
            ``"layer"`` one per site; both work at any input size.
        site: What is perturbed. ``"output"``: the output of each convolution call; ``"activation"``, PNI's word for it,
            means the same. ``"input"``: its input, for that call alone. ``"norm"``: the output of the normalisation
            that follows a convolution. ``"addition"``: each sum of two feature maps, and the output of the
            normalisation that follows the first convolution (the authors' release). ``"weight"``: the weights of
            convolutions and linear layers. ``"parameter"``: every weight, bias, and affine parameter. Noise on weights
            is drawn once per forward.
        scale: The meaning of θ. ``"absolute"``: the standard deviation of the noise. ``"relative"``: its ratio to the
            standard deviation of all that is perturbed at this site, which is detached. ``"posterior"``: the
            logarithm of the noise's standard deviation.
        draw_per: On feature maps, ``"sample"`` draws ε for every image, ``"batch"`` once for the whole batch.
        theta_init: The initial value of every θ, at least ``theta_min``; or, for scale ``"absolute"``, a string such as
            ``"0.1x"``: a multiple of the standard deviation of what is perturbed, measured at each site on the example
            input.
        theta_first: Another initial value for the first site.
        theta_min: The floor θ is projected to after each θ-step, positive; None: no floor.
        learnable: Whether θ is trained.
        extent: ``"all"`` sites, or only the ``"first"``.
        include: Globs over the dotted paths of the modules that convolve (normalise, add, hold the weight); empty
            means all.
        exclude: Globs over the same paths; takes precedence over ``include``.
        theta_per: A module called k times gets k θ (``"call"``) or one for all its calls (``"module"``).

    Raises:
        ValueError: A setting is outside its range.
    """

    grain: Grain = "element"
    site: SiteKind = "output"
    scale: Scale = "absolute"
    draw_per: DrawPer = "sample"
    theta_init: float | str = 0.25
    theta_first: float | None = None
    theta_min: float | None = 0.01
    learnable: bool = True
    extent: Extent = "all"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    theta_per: ThetaPer = "call"

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in get_args(allowed):
                raise ValueError(f"{field} must be one of {', '.join(get_args(allowed))}, not {value!r}")
        if self.site == "activation":
            object.__setattr__(self, "site", "output")
        for field in ("include", "exclude"):
            globs = getattr(self, field)
            if not isinstance(globs, tuple) or not all(isinstance(g, str) for g in globs):
                raise ValueError(f"{field} must be a tuple of globs, not {globs!r}")
        if not isinstance(self.learnable, bool):
            raise ValueError(f"learnable must be True or False, not {self.learnable!r}")
        if self.theta_min is not None and not 0 < self.theta_min <= numbers.MOST_THETA:
            raise ValueError(f"theta_min must be positive and at most {numbers.MOST_THETA:,}, not {self.theta_min}")
        if not isinstance(self.theta_init, str) and not hasattr(self.theta_init, "__float__"):
            raise ValueError(f'theta_init must be a number, or such as "0.1x", not {self.theta_init!r:.80}')
        if isinstance(self.theta_init, str):
            ratio = relative_start(self.theta_init)
            if ratio is None:
                raise ValueError(f'theta_init must be a number or a string such as "0.1x", not {self.theta_init!r:.80}')
            if self.scale != "absolute":
                raise ValueError(
                    f"theta_init {self.theta_init!r} measures activations, which needs noise of absolute scale; "
                    f"scale {self.scale!r} takes a number"
                )
        for start in (self.theta_init, self.theta_first):
            if isinstance(start, str) or start is None:
                continue
            if not abs(start) <= numbers.MOST_THETA:
                raise ValueError(f"theta_init must be finite and at most {numbers.MOST_THETA:,}, not {start}")
            if self.theta_min is not None and start < self.theta_min:
                raise ValueError(f"theta_init {start} must be finite and at least theta_min {self.theta_min}")

    @property
    def on_weights(self) -> bool:
        """Whether noise goes on weights rather than on feature maps."""
        return self.site in WEIGHT_SITES

    @property
    def fixes_size(self) -> bool:
        """Whether θ fits only one input size."""
        return self.grain == "element" and not self.on_weights


_CHOICES = {
    "site": SiteKind,
    "scale": Scale,
    "grain": Grain,
    "draw_per": DrawPer,
    "extent": Extent,
    "theta_per": ThetaPer,
}
_RENAMED = {"share": "draw_per", "shared": "theta_per"}  # up to file format 2


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from files of earlier versions, under their current names.

    ``backend`` is left out: it does not change where the noise is.
    """
    return {_RENAMED.get(name, name): value for name, value in settings.items() if name != "backend"}


def check_config(config: Any) -> None:
    """Makes sure that an argument can be the settings of a surgery.

    Raises:
        WrongType: It is neither a :class:`PerturbConfig` nor None; the hint says what it may have meant.
    """
    if config is None or isinstance(config, PerturbConfig):
        return
    hint = 'Give a PerturbConfig, such as PerturbConfig(grain="channel").'
    if isinstance(config, Mapping):
        hint = "Give PerturbConfig(**settings)."
    elif isinstance(config, str):
        fields = {value: field for field, allowed in _CHOICES.items() for value in get_args(allowed)}
        if config in fields:
            hint = f'Give PerturbConfig({fields[config]}="{config}").'
        else:
            hint = f"{nearest(config, fields)} {hint}".strip()
    raise WrongType(f"The noise is a PerturbConfig, not {described(config)}.", hint)


def relative_start(theta_init: float | str) -> float | None:
    """The factor that ``"0.1x"`` stands for; None for a number, which is taken as it is, and for anything else."""
    if not isinstance(theta_init, str) or not theta_init.endswith("x"):
        return None
    ratio = numbers.decimal(theta_init[:-1])
    return ratio if ratio is not None and 0 < ratio <= numbers.MOST_THETA else None
