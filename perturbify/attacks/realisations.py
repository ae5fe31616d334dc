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
    """Finds out what randomness a network has under attack, by running it in eval mode.

    A network counts as random if a forward pass uses a global generator (torch's, numpy's, Python's), or if two passes
    differ. This includes a network that draws noise and then rounds it away, and one that is random only when a
    gradient is requested. Modes and generators are restored afterwards.

    Args:
        model: Any network.
        images: A few images, shape (N, C, H, W), in [0, 1].

    Returns:
        ``"none"`` if it is deterministic, including with its noise switched off; ``"fresh"`` if our noise is drawn for
        every image; ``"shared"`` if all of it is drawn once per batch; ``"weights"`` if it is on weights, so each
        forward pass draws once for all its images; ``"foreign"`` if the network has randomness other than our noise.
    """
    with frozen_eval(model):
        with noise(model, enabled=False):
            if _draws(model, images) or _draws(model, images, gradients=True):
                return "foreign"
        if not _draws(model, images):
            return "none"
    drawing = [p for _, p in perturbations(model) if p.enabled]
    if not drawing:  # it looked deterministic without our noise, and is not: whatever changes it is not ours
        return "foreign"
    if all(p.of_weight for p in drawing):
        return "weights"
    return "fresh" if any(p.draw_per == "sample" and not p.of_weight for p in drawing) else "shared"


class Frozen(nn.Module):
    """A random network as a function: its logits averaged over fixed realisations of the noise.

    Every image sees the same realisations at every call, whatever the rest and the size of its batch (up to rounding:
    kernels for another batch size may round differently). Logits are differentiable with respect to the images; a
    gradient holds the graphs of all realisations at once. The caller's generators (torch's on the CPU and on the
    network's CUDA devices, numpy's, Python's) are restored afterwards.

    Networks whose only randomness is our noise run the whole batch once per realisation. All others run image by image,
    reseeded each time, since their draws for an image would depend on its position in the batch: networks with
    randomness of their own, and those with our noise on a map whose leading dimension is not the batch (windows,
    patches). That is slow. A network without randomness runs once, unchanged.

    A search that always passes the same images in the same order can avoid this: their positions, and so their draws,
    stay the same (``by_place``).

    Batch-norm in train mode makes an image's logits depend on its batch; use it in eval mode, as attacks do.

    Args:
        model: Any classifier.
        draws: Number of realisations; at least 1.
        seed: Seed of the realisations. It is hashed, so they differ from what a caller draws after
            ``torch.manual_seed`` with the same number.
        by_place: Whether every call has the same images in the same order, so that any network can run a whole batch at
            once; another batch sees other realisations.

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
        """Returns the averaged logits.

        Args:
            images: Shape (N, C, H, W).

        Raises:
            ModelError: The network draws from a generator that is not global, so it cannot be frozen.
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
        """Shows the number of realisations and their seed."""
        return f"draws={self.draws}, seed={self.seed}"

    def _average(self, images: Tensor) -> Tensor:
        logits = []
        for i in range(self.draws):
            with seeded(_hashed(self.seed, i), _devices(self.model, images)):
                logits.append(self.model(images))
        return torch.stack(logits).mean(0)

    def _probe(self, images: Tensor) -> None:
        """Finds out, once per setting of the modes, whether the batch can run as a whole."""
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
                    f"{type(self.model).__name__} returns different logits for the same seed, so it cannot be frozen.",
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
    """The next numbers of the generators, which a draw in between changes."""
    numbers = [torch.rand(()).item(), random.random(), float(np.random.random())]
    return (*numbers, torch.rand((), device=images.device).item())


def _same(first: Tensor, second: Tensor) -> bool:
    # CUDA kernels may add in another order; no real noise is that small.
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
