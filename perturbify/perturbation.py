"""The perturbation module and the one switch that turns noise on and off."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from perturbify.arguments import check_network, check_type
from perturbify.errors import InputSizeError, SurgeryError
from perturbify.normal import standard_normal_like

CHILD = "perturb"
"""Name of a perturbation below the module that convolves."""

_HAS_TRITON = find_spec("triton") is not None and torch.version.hip is None
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Elements: below this, on an H100, Python takes longer to launch Triton's kernel than torch's own kernels take
# (benchmarks/results/2026-11-27-gpu.json). Compiled code launches it at any size.
_WORTH_A_LAUNCH = 2**23


class Perturbation(nn.Module):
    """Adds Gaussian noise to a feature map or a weight: ``y = x + σ ⊙ ε``, ε ~ N(0, 1).

    By scale, σ is θ itself (*absolute*: Learn2Perturb, eq. 4-6), θ times the standard deviation of ``x`` (*relative*:
    PNI), or e^θ (*posterior*: Adv-BNN). ε is drawn anew at every forward, in training and inference alike;
    ``train()`` and ``eval()`` do not affect it, :func:`noise` does. The draws come from torch's global generator of the
    device.

    Args:
        shape: Shape of θ without a batch dimension: (C, H, W) for grain *element*, (C, 1, 1) for *channel*,
            (1, 1, 1) for *layer* (one spatial dimension fewer or more for 1-d and 3-d convolutions).
        site: Display name of the place: the module's path, with ``#1`` for its second call, or the weight's.
        draw_per: ``"sample"`` draws ε for every image, ``"batch"`` once for all images of a batch.
        of_weight: Whether it perturbs a weight, which has no images to share a draw.
        scale: ``"absolute"``, ``"relative"`` or ``"posterior"``.
        theta_init: Initial value of every entry of θ.
        theta_min: Floor that :meth:`project_` lifts θ to; None: no floor.
        learnable: Whether θ is trained.
        inputs: Shape of the network's input for one image that a θ per element was made for, for messages.
        image_channels: C, where feature maps come as (1, N·C, H, W), the images side by side.
        device: Device of θ.
        dtype: Floating dtype of θ; the result always has the dtype of the feature map.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        site: str = "",
        draw_per: str = "sample",
        of_weight: bool = False,
        scale: str = "absolute",
        theta_init: float = 0.25,
        theta_min: float | None = 0.01,
        learnable: bool = True,
        inputs: Sequence[int] = (),
        image_channels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        start = torch.full(tuple(shape), theta_init, device=device, dtype=dtype)
        self.theta = nn.Parameter(start, requires_grad=learnable)
        self.site = site
        self.draw_per = draw_per
        self.of_weight = of_weight
        self.scale = scale
        self.theta_min = theta_min
        self.inputs = tuple(inputs)
        self.image_channels = image_channels
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Perturbs a feature map or a weight.

        Args:
            x: Shape (N, C, H, W), or (C, H, W) without a batch; or a weight.

        Returns:
            A tensor like ``x``; ``x`` itself while the noise is off.

        Raises:
            InputSizeError: θ is per element and ``x`` has another size.
        """
        if not self.enabled:
            return x
        if self.image_channels is None:
            return self._perturb(x)
        return self._perturb(x.reshape(-1, self.image_channels, *x.shape[2:])).reshape(x.shape)

    def _perturb(self, x: Tensor) -> Tensor:
        map_shape = x.shape[x.dim() - self.theta.dim() :]
        if any(t not in (1, s) for t, s in zip(self.theta.shape, map_shape, strict=True)):
            made_for = f"inputs of {_times(self.inputs)}, " if self.inputs else ""
            raise InputSizeError(
                f"θ{f' of {self.site}' if self.site else ''} was made for {made_for}a feature map of "
                f"{_times(self.theta.shape)}; this one is {_times(map_shape)}.",
                f'Resize to {_times(self.inputs)}, or wrap with grain="channel", which takes any size.'
                if self.inputs
                else 'Feed inputs of the size the network was wrapped for, or wrap it with grain="channel".',
            )
        sigma = self._sigma(x)
        if _can_fuse(x, sigma):
            from perturbify.fused import fused_noise

            return fused_noise(x, sigma, self.draw_per)
        draw_once = self.draw_per == "batch" and not self.of_weight and x.dim() > self.theta.dim()
        epsilon = standard_normal_like(x[:1] if draw_once else x)
        return torch.addcmul(x, sigma.to(x.dtype), epsilon)

    def _sigma(self, x: Tensor) -> Tensor:
        """Standard deviation of the noise, in the shape of θ."""
        if self.scale == "absolute":
            return self.theta
        if self.scale == "posterior":
            return self.theta.exp()
        return self.theta * spread(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Perturbation:
        # θ has no batch dimension, so memory formats do not apply to it.
        return super()._apply(lambda t: fn(t.view(-1)).view(t.shape), recurse)

    @torch.no_grad()
    def project_(self) -> None:
        """Lifts θ to its floor, if it has one: ``θ ← max(θ, θ_min)``."""
        if self.theta_min is not None:
            self.theta.clamp_(min=self.theta_min)

    def __bool__(self) -> bool:
        # torchinfo tells a layer from a block by any(module.children()): noise must not make a convolution a block.
        return False

    def extra_repr(self) -> str:
        """Shows the shape of θ, who shares a draw, and whether the noise is on."""
        return f"{_times(self.theta.shape)}, draw_per={self.draw_per!r}, scale={self.scale!r}, enabled={self.enabled}"


class Unplaced(nn.Module):
    """Replaces the noise of a convolving module that was not called when the network was wrapped, so it has no θ.

    Args:
        site: Path of that module.
    """

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` while the noise is off.

        Raises:
            SurgeryError: The noise is on.
        """
        if self.enabled:
            raise SurgeryError(
                f"{self.site} was not called when the network was wrapped, so it has no θ.",
                "Wrap with an example_input that reaches it, or leave it out with exclude=.",
            )
        return x

    def __bool__(self) -> bool:
        return False


def spread(x: Tensor) -> Tensor:
    """Standard deviation over all of ``x``, detached; 0 for a single element."""
    return x.detach().std() if x.numel() > 1 else x.new_zeros(())


def _can_fuse(x: Tensor, theta: Tensor) -> bool:
    return _suits_the_kernel(x, theta) and _may_launch(x, theta)


def _suits_the_kernel(x: Tensor, theta: Tensor) -> bool:
    """Whether the fused kernel takes these tensors."""
    image = x.shape[x.dim() - theta.dim() :]
    return (
        _HAS_TRITON
        and x.device.type == "cuda"
        and theta.device == x.device
        and x.dtype in _FUSED_DTYPES
        and x.dim() - theta.dim() in (0, 1)
        and x.numel() > 0
        and image.numel() < 2**30
        and (theta.shape == image or (theta.shape[0] in (1, image[0]) and theta.numel() == theta.shape[0]))
    )


def _may_launch(x: Tensor, theta: Tensor) -> bool:
    """Whether torch compiles this call or simply runs it: no export, trace, vmap or fake tensors."""
    if torch.compiler.is_compiling():
        # is_exporting() is true wherever dynamo traces, before torch 2.15 or so; the flag behind it is not.
        return torch.compiler.is_dynamo_compiling() and not torch.compiler._is_exporting_flag
    return (
        x.numel() >= _WORTH_A_LAUNCH
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and {type(x), type(theta)} <= {Tensor, nn.Parameter}
        and _get_current_dispatch_mode() is None
        and torch._C._functorch.peek_interpreter_stack() is None
        and _launches(x.device, x.dtype)
    )


@cache
def _launches(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton can run a kernel there; it needs a C compiler, and a GPU that is not too old."""
    try:
        with warnings.catch_warnings(action="ignore"):
            from perturbify.fused import add_noise

            x = torch.zeros(1, device=device, dtype=dtype)
            add_noise(x, x, torch.zeros(1, device=device, dtype=torch.int64), False)
    except Exception as error:
        warnings.warn(f"torch draws the noise, more slowly, because Triton failed: {error!r:.200}", stacklevel=2)
        return False
    return True


def child_name(which: int | str) -> str:
    """Name of a perturbation below its module.

    which: Index of the call, from 0: perturb, perturb_1, perturb_2, …; or the name of a parameter: perturb_weight.
    which: Number of the call, from 0: perturb, perturb_1, perturb_2, …; or the name of a parameter: perturb_weight.
    """
    return CHILD if which == 0 else f"{CHILD}_{which}"


def site_name(owner: str, which: int | str) -> str:
    """Display name of a site.

    Args:
        owner: The module's path.
        which: Index of the call, from 0: ``#1`` is added for the second, and so on; or the name of a parameter.
    """
    if isinstance(which, str):
        return f"{owner}.{which}" if owner else which
    return (owner or "(root)") + (f"#{which}" if which else "")


def perturbations(model: nn.Module) -> Iterator[tuple[str, Perturbation]]:
    """Iterates over the noise modules of a network.

    Args:
        model: Any module; one without noise yields nothing.

    Returns:
        Pairs of a site name (such as ``layer1.0.conv1``, ``layer1.0.conv1#1`` for that module's second call, or
        ``layer1.0.conv1.weight``) and module.
    """
    check_network(model, "perturbations")
    return ((m.site or path, m) for path, m in model.named_modules() if isinstance(m, Perturbation))


def noise(model: nn.Module, enabled: bool = True) -> AbstractContextManager[None]:
    """Turns the noise of a network on or off inside a ``with`` block; independent of ``train()`` and ``eval()``.

    Off means off: the network's outputs are those of the source network, bit for bit.

    Args:
        model: A network with or without noise modules.
        enabled: Whether the noise is on inside the block; each module is restored afterwards.
    """
    check_network(model, "noise")
    check_type(enabled, bool, "The noise is switched by True or False")
    return _with_setting(model, "enabled", enabled)


def drawing_per(model: nn.Module, draw_per: str) -> AbstractContextManager[None]:
    """Changes, inside a ``with`` block, which images share a draw of the noise; for a single image nothing changes.

    Noise on weights is still drawn once per forward.

    Args:
        model: A network with or without noise modules.
        draw_per: ``"sample"``: every image has its own; ``"batch"``: all images of a batch have the same. Each module
            is restored afterwards.
    """
    return _with_setting(model, "draw_per", draw_per)


@contextmanager
def _with_setting(model: nn.Module, name: str, value: object) -> Iterator[None]:
    kinds = (Perturbation, Unplaced) if name == "enabled" else Perturbation
    modules = [m for m in model.modules() if isinstance(m, kinds)]
    before = [(module, getattr(module, name)) for module in modules]
    try:
        for module, _ in before:
            setattr(module, name, value)
        yield
    finally:
        for module, was in before:
            setattr(module, name, was)


def _times(shape: Sequence[int]) -> str:
    return "×".join(str(s) for s in shape)
