"""The Gaussian mechanism inside a network: an image, a layer of bounded sensitivity, noise, and everything after it.

Differential privacy is preserved under post-processing. So a network's answers are private with respect to the image if
its first convolution with the noise behind it is, and nothing else sees the image.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from perturbify.attacks import frozen_eval
from perturbify.certification.gaussian import DELTA, noise_level
from perturbify.certification.operator_norm import convolution_norm
from perturbify.errors import MethodError
from perturbify.generators import reproducible
from perturbify.perturbation import Perturbation, noise
from perturbify.surgery.noisy import Perturbed, source_class

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BOUNDED = "The first convolution must be a plain nn.Conv1d, nn.Conv2d or nn.Conv3d with zero or circular padding."


@dataclass(frozen=True)
class Mechanism:
    """A network's first convolution, and the noise behind it.

    Attributes:
        convolution: The convolution.
        perturbation: The noise.
        std: What the pixels are divided by beforehand, one number per channel; None if the convolution takes them as
            they are.
        size: Height and width of the images (one number per spatial dimension).
    """

    convolution: _ConvNd
    perturbation: Perturbation
    std: Tensor | None
    size: tuple[int, ...]

    @property
    def sigma(self) -> float:
        """Smallest standard deviation of the noise; 0 while it is off.

        Raises:
            MethodError: θ is not positive, or not finite.
        """
        if not self.perturbation.enabled:
            return 0.0
        least = self.perturbation.theta.min().item()
        if not 0 < least < float("inf"):
            raise MethodError(f"The noise behind the first convolution has a standard deviation of {least:.4g}.")
        return least

    @property
    def sensitivity(self) -> float:
        """Upper bound on the l2 operator norm from pixels to feature map, including normalisation; infinite for NaN."""
        convolution = self.convolution
        weight = convolution.weight.detach().to("cpu", torch.float64)
        if self.std is not None:
            outputs, inputs = weight.shape[0] // convolution.groups, convolution.in_channels
            std = self.std.detach().to(weight).flatten().expand(inputs).view(convolution.groups, -1)
            weight = weight / std.repeat_interleave(outputs, 0).view(*weight.shape[:2], *[1] * len(self.size))
        padding = convolution._reversed_padding_repeated_twice[::-1]
        return convolution_norm(
            weight,
            self.size,
            dilation=convolution.dilation,
            groups=convolution.groups,
            circular=None
            if convolution.padding_mode == "zeros"
            else [a + b for a, b in zip(padding[::2], padding[1::2], strict=True)],
        )

    @property
    def greatest_radius(self) -> float:
        """The radius at ε = 1, the limit of the mechanism's theorem: no answer is certified beyond it.

        Raises:
            MethodError: The convolution's weight is 0 or not finite, or θ is not positive and finite.
        """
        return self.sigma / noise_level(1, 1, DELTA, usable(self.sensitivity))

    def on(self, images: Tensor) -> Mechanism:
        """The mechanism for images of a given size.

        Args:
            images: Shape (N, C, H, W).

        Raises:
            MethodError: Their number of channels is not the convolution's.
        """
        if images.dim() != len(self.size) + 2 or images.shape[1] != self.convolution.in_channels:
            raise MethodError(
                f"The first convolution takes batches of images with {self.convolution.in_channels} channels, not a "
                f"tensor of shape {tuple(images.shape)}."
            )
        return replace(self, size=tuple(images.shape[2:]))

    @torch.no_grad()
    def limit_(self, bound: float) -> None:
        """Scales the weight down, in place, until the sensitivity is at most ``bound``; never up.

        A non-finite weight is left for training to detect.
        """
        weight, sensitivity = self.convolution.weight, self.sensitivity
        if bound < sensitivity < float("inf"):
            # Rounding changes a kernel by E, with |E| at most eps / 2 times |W|, entry by entry; and with k taps
            # ‖E‖² ≤ k ‖E‖_F² ≤ k (eps / 2)² ‖W‖_F² ≤ k (eps / 2)² C_in ‖W‖², the norms with F being Frobenius's.
            margin = weight[0].numel() ** 0.5 * torch.finfo(weight.dtype).eps
            weight.mul_(bound / sensitivity * (1 - margin))


def usable(sensitivity: float) -> float:
    """Checks that a sensitivity can certify anything, and returns it.

    Raises:
        MethodError: It is 0 or not finite, like the convolution's weight.
    """
    if not 0 < sensitivity < float("inf"):
        what = "0, so its output is the same for every image" if sensitivity == 0 else "not finite"
        raise MethodError(f"The weight of the first convolution is {what}.")
    return sensitivity


def find_mechanism(network: Perturbed) -> Mechanism:
    """Finds the first convolution and its noise, without running the network.

    Args:
        network: A network wrapped with noise of absolute scale behind its first convolution only.

    Raises:
        MethodError: It has other noise, or the convolution's sensitivity has no known bound.
    """
    plan = network.surgery.plan
    config = plan.config
    if config is None or (config.site, config.scale, config.extent) != ("output", "absolute", "first"):
        raise MethodError(
            "Certification needs noise of absolute scale behind the first convolution only; the method of this "
            f"network is {network.surgery.method}.",
            "Wrap the plain network with a defence that certifies; docs/certify.md names it.",
        )
    if len(plan.input_shapes) != 1:
        raise MethodError(f"This network takes {len(plan.input_shapes)} tensors; certification needs one image.")
    site = plan.sites[0]
    convolution = network.get_submodule(site.owner)
    reason = _unbounded(convolution)
    if reason:
        raise MethodError(f"The sensitivity of {site.name} has no known bound: {reason}.", _BOUNDED)
    perturbation = network.get_submodule(site.path)
    assert isinstance(convolution, _ConvNd) and isinstance(perturbation, Perturbation)
    std = network.normalize.std if network.surgery.normalizes else None
    return Mechanism(convolution, perturbation, std, plan.input_shapes[0][1:])


def _unbounded(module: nn.Module) -> str:
    """Why the bound does not hold for a module; empty if it does."""
    if not isinstance(module, _PLAIN):
        return f"it is a {type(module).__name__}"
    forwards = [(kind.forward, kind._conv_forward) for kind in _PLAIN]
    own, kind = {"forward", "_conv_forward"} & vars(module).keys(), source_class(module)
    if own or (kind.forward, kind._conv_forward) not in forwards:  # type: ignore[attr-defined]
        return f"{kind.__name__} has a forward of its own"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    if module.padding_mode not in ("zeros", "circular"):
        return f"it is padded by {module.padding_mode!r}"
    return ""


def verify(network: Perturbed, size: tuple[int, ...] | None = None) -> Mechanism:
    """Finds the mechanism and runs the network, to verify that the image passes through it and never bypasses it.

    The convolution's input must be the image itself, or the output of the normalisation inside; the noise must be added
    to its output, once per forward pass; with the noisy feature map held fixed, other images (noise, black, white,
    bright, dark, a single pixel) must give the same answer, and autograd must find no path from the answer to the
    image; and an image must get the same answer alone as in a batch. Modes, buffers and random state are restored
    afterwards.

    Args:
        network: As for :func:`find_mechanism`. On the meta device, where nothing can be run, it is only inspected.
        size: Height and width of the images; by default those it was wrapped for.

    Raises:
        MethodError: As for :func:`find_mechanism`, or one of these conditions fails.
    """
    mechanism = find_mechanism(network)
    if size is not None:
        mechanism = replace(mechanism, size=size)
    site, convolution = network.surgery.plan.sites[0], mechanism.convolution
    weight = convolution.weight
    if weight.is_meta:
        return mechanism
    images = _trials(network.surgery.plan.input_shapes[0][0], mechanism.size, weight)
    run = _Run(mechanism)
    with frozen_eval(network), noise(network, True):
        answers = [run(network, image.requires_grad_()) for image in images]
        with reproducible(network), torch.no_grad():
            taken = [network.normalize(image) if network.surgery.normalizes else image for image in images]
        calls, maps = len(run.inputs) / len(images), len(run.maps) / len(images)
        alone = run(network, images[0][:1])
    if not calls == maps == 1:
        raise MethodError(
            f"In a forward pass in eval mode, {site.name} is called {calls:.2g} times and the noise behind it is "
            f"added {maps:.2g} times, instead of once.",
            "A certificate needs a first convolution that is called once.",
        )
    if not all(torch.equal(seen.to(each.dtype), each) for seen, each in zip(run.inputs, taken, strict=False)):
        raise MethodError(
            f"{site.name} does not take the image itself, so its sensitivity says nothing about the pixels.",
            "Only the normalisation that perturbify.wrap(normalize=…) inserts may come before it.",
        )
    # The bias, which does not affect the sensitivity, cancels.
    with torch.no_grad():
        mapped = [convolution._conv_forward(each, weight, convolution.bias) for each in taken[:2]]
    wanted = mapped[0] - mapped[1]
    if (run.maps[0] - run.maps[1] - wanted).norm() > 1e-2 * wanted.norm():
        raise MethodError(f"The noise is not on the output of {site.name}.", "Remove other hooks on this convolution.")
    first, *others = answers
    if any(a.requires_grad or not _same(a, b) for other in others for a, b in zip(first, other, strict=True)):
        raise MethodError(
            f"The answer depends on the image past the noise behind {site.name}, so nothing can be certified.",
            "Every path from the image must pass through the first convolution.",
        )
    if any(not _close(a, b[: len(a)]) for a, b in zip(alone, first, strict=True) if a.dim()):
        raise MethodError(
            "The answer for an image depends on the rest of its batch, so nothing can be certified.",
            "Use batch norm with running statistics.",
        )
    return mechanism


def _trials(channels: int, size: tuple[int, ...], like: Tensor) -> list[Tensor]:
    """Very different batches of two images each."""
    generator = torch.Generator().manual_seed(0)
    rough = [torch.rand(2, channels, *size, generator=generator) for _ in range(3)]
    pixel = torch.zeros_like(rough[0])
    pixel.flatten(2)[:, :, pixel[0, 0].numel() // 2] = 1
    images = [*rough[:2], torch.zeros_like(pixel), torch.ones_like(pixel), 0.9 + 0.1 * rough[2], 0.1 * rough[2], pixel]
    return [image.to(like) for image in images]


def _close(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal up to the rounding of convolutions for other batch sizes."""
    return first.shape == second.shape and not bool((first - second).norm() > 0.05 * second.norm())


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal, with NaN equal to NaN."""
    return first.shape == second.shape and bool(((first == second) | (first.isnan() & second.isnan())).all())


class _Run:
    """Runs forward passes that all reuse the first one's noisy feature map, and records the inputs."""

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism = mechanism
        self.inputs: list[Tensor] = []
        self.maps: list[Tensor] = []
        self._kept: Tensor | None = None

    def __call__(self, network: nn.Module, image: Tensor) -> list[Tensor]:
        """Returns the tensors in the network's output."""
        with ExitStack() as hooks:
            for hook in (
                self.mechanism.convolution.register_forward_pre_hook(self._note_input, with_kwargs=True),
                self.mechanism.perturbation.register_forward_pre_hook(self._note_map),
                self.mechanism.perturbation.register_forward_hook(self._hold),
            ):
                hooks.callback(hook.remove)
            with reproducible(network), torch.enable_grad():
                answer = network(image)
        return [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]

    def _note_input(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inputs.append((*args, *kwargs.values())[0].detach())

    def _note_map(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.maps.append(args[0].detach())

    def _hold(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        if self._kept is None:
            self._kept = output.detach()
        return self._kept[: len(output)]
