"""The noise modes an attack can meet: fresh for every image, shared by the batch, or frozen."""

from __future__ import annotations

import hashlib
import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from perturbify.attacks.gradient import frozen_eval
from perturbify.errors import ModelError
from perturbify.generators import seeded
from perturbify.perturbation import Perturbation, drawing_per, noise, perturbations

Randomness = Literal["none", "fresh", "shared", "weights", "foreign"]


def randomness(model: nn.Module, images: Tensor) -> Randomness:
    """Finds out what a network draws while it is attacked, by running it in eval mode.

    A network is taken for random where a forward asks a global generator (torch's, numpy's, Python's) for numbers, or
    where two forwards differ; so a network that draws and then rounds the noise away is random as well, and one that
    is random only where a gradient is asked for. Modes and generators are afterwards what they were.

    Args:
        model: Any network.
        images: A few images, shape (N, C, H, W), in [0, 1].

    Returns:
        ``"none"`` where it is deterministic, noise that is switched off included; ``"fresh"`` where our noise is drawn
        for every image, ``"shared"`` where all of it is drawn once for a batch, ``"weights"`` where it is on weights,
        and each forward draws once for all of its images; ``"foreign"`` where the network draws by itself, with or
        without ours.
    """
    with frozen_eval(model):
        with noise(model, enabled=False):
            if _draws(model, images) or _draws(model, images, gradients=True):
                return "foreign"
        if not _draws(model, images):
            return "none"
    drawing = [p for _, p in perturbations(model) if p.enabled]
    if not drawing:  # it looked deterministic at first, and is not: whatever changes it is not ours
        return "foreign"
    if all(p.of_weight for p in drawing):
        return "weights"
    return "fresh" if any(p.draw_per == "sample" and not p.of_weight for p in drawing) else "shared"


class Frozen(nn.Module):
    """A random network as a function: its logits averaged over fixed realisations of the noise.

    Every image meets the same realisations, at every call, whoever else is in its batch and however large that is (to
    float accuracy: kernels for another batch size may round otherwise). Logits are differentiable with respect to the
    images; a gradient keeps the graphs of all realisations at once. The caller's generators (torch's on the CPU and on
    the network's CUDA devices, numpy's, Python's) are afterwards what they were.

    Networks whose only randomness is our noise run the whole batch once a realisation. All others run image by image,
    each image after reseeding, since what they draw for an image would depend on its place in the batch: networks that
    draw by themselves, and those where our noise sits on a map whose leading dimension is not the batch (windows,
    patches). That is slow. A network without randomness runs once, and as it is.

    A search that always asks for the same images in the same order can do without: then their places stay, and with
    them what is drawn for them.

    Batch-norm in train mode makes an image's logits depend on its batch; use it in eval mode, as attacks do.

    Args:
        model: Any classifier.
        draws: Number of realisations; at least 1.
        seed: Decides the realisations. It is hashed, so they are none of those that a caller draws after
            ``torch.manual_seed`` of the same number.
        by_place: Whether the images of every call are the same ones in the same order, so that a whole batch runs at
            once, whatever the network; another batch meets other realisations.

    Raises:
        ValueError: ``draws`` is less than 1.
    """

    def __init__(self, model: nn.Module, draws: int = 1, seed: int = 0, *, by_place: bool = False) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1, not {draws}")
        super().__init__()
        self.model = model
        self.training = model.training
        self.draws, self.seed, self.by_place = draws, seed, by_place
        self._modes: tuple[bool, ...] = ()
        self._foreign = self._folded = False

    def forward(self, images: Tensor) -> Tensor:
        """Gives the averaged logits.

        Args:
            images: Shape (N, C, H, W).

        Raises:
            ModelError: The network draws from a generator that is not a global one, so nothing freezes it.
        """
        self._probe(images)
        if not self._foreign and not any(p.enabled for _, p in perturbations(self.model)):
            return self.model(images)
        if self._foreign or self._folded:
            if self.by_place:
                return self._average(images)
            return torch.cat([self._average(image) for image in images.split(1)])
        with drawing_per(self.model, "batch"):
            return self._average(images)

    def extra_repr(self) -> str:
        """Shows how many realisations there are, and of which seed."""
        return f"draws={self.draws}, seed={self.seed}"

    def _average(self, images: Tensor) -> Tensor:
        logits = []
        for i in range(self.draws):
            with seeded(_hashed(self.seed, i), _devices(self.model, images)):
                logits.append(self.model(images))
        return torch.stack(logits).mean(0)

    def _probe(self, images: Tensor) -> None:
        """Finds out, once for each setting of the modes, whether the batch can run as one."""
        modes = tuple(module.training for module in self.model.modules())
        if modes == self._modes:
            return
        few = images[:2].detach()
        with noise(self.model, enabled=False):
            self._foreign = _draws(self.model, few)
        self._folded = _folds(self.model, few)
        if self._foreign:
            with torch.no_grad():
                first, second = self._average(few[:1]), self._average(few[:1])
            if not _same(first, second):
                raise ModelError(
                    f"{type(self.model).__name__} gives other logits after the same seed, so it cannot be frozen.",
                    "Let it draw from torch's global generator instead of one of its own.",
                )
        self._modes = modes


def _draws(model: nn.Module, images: Tensor, *, gradients: bool = False) -> bool:
    images = images.detach().requires_grad_(gradients)
    results = []
    for seed in range(2):
        with seeded(seed, _devices(model, images)):
            unmoved = _next_numbers(images)
        with seeded(seed, _devices(model, images)), torch.set_grad_enabled(gradients):
            results.append(model(images).detach())
            if _next_numbers(images) != unmoved:
                return True
    return not _same(*results)


def _next_numbers(images: Tensor) -> tuple[float, ...]:
    """What the generators would give next: something else after a draw than before it."""
    numbers = [torch.rand(()).item(), random.random(), float(np.random.random())]
    return (*numbers, torch.rand((), device=images.device).item())


def _same(first: Tensor, second: Tensor) -> bool:
    # CUDA kernels may add in another order; no noise worth the name is as small as that.
    return torch.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)


@torch.no_grad()
def _folds(model: nn.Module, images: Tensor) -> bool:
    """Whether a noise module sees a map whose leading dimension is not the batch."""
    leading: set[int] = set()

    def look(module: Perturbation, inputs: tuple[Tensor, ...]) -> None:
        channels, (x, *_) = module.image_channels, inputs
        leading.add(len(x) if channels is None else len(x) * x.shape[1] // channels)

    on_maps = [module for _, module in perturbations(model) if not module.of_weight]
    hooks = [module.register_forward_pre_hook(look) for module in on_maps]
    try:
        if hooks:
            with seeded(0, _devices(model, images)):
                model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return not leading <= {len(images)}


def _devices(model: nn.Module, images: Tensor) -> set[torch.device]:
    return {tensor.device for tensor in (*model.parameters(), *model.buffers(), images)}


def _hashed(seed: int, realisation: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}, realisation {realisation}".encode()).digest()[:4], "big")
