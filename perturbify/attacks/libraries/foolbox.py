"""foolbox's C&W and HopSkipJump, which search for the smallest perturbation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import Crafted, Need, Passes
from perturbify.attacks.gradient import frozen_eval, input_gradient
from perturbify.attacks.libraries.borrowed import View, borrow, quiet
from perturbify.attacks.realisations import Frozen


@dataclass(frozen=True)
class CarliniWagner:
    """The l2 attack of Carlini and Wagner (2017), with Adam and a binary search for the weight of its loss.

    It keeps the nearest image that a single forward pass misclassified by the confidence, out of ``steps`` times
    ``search_steps`` passes; on a random network that is the luckiest draw, and fresh noise mostly undoes it. So its
    claim must be read next to the accuracy on fresh draws. With more ``draws``, each pass is an average.

    The library's early abort is off: it compares the loss of the whole batch at two draws, so noise would end the
    search.

    Attributes:
        confidence: κ: by how much the wrong logit must exceed the right one.
        steps: Adam steps per step of the search; 1000 in the paper.
        step_size: Adam's learning rate.
        search_steps: Steps of the binary search.
        draws: Fresh draws of the noise averaged per step.

    Raises:
        ValueError: A setting is outside its range.
    """

    confidence: float = 0.0
    steps: int = 1000
    step_size: float = 5e-4
    search_steps: int = 9
    draws: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.confidence) and self.confidence >= 0):
            raise ValueError(f"confidence must be finite and at least 0, not {self.confidence}")
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ValueError(f"step_size must be positive, not {self.step_size}")
        if self.steps < 1 or self.search_steps < 1 or self.draws < 1:
            raise ValueError(
                f"steps, search_steps and draws must be at least 1, not {self.steps}, {self.search_steps} and "
                f"{self.draws}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Its requirements."""
        return frozenset({"gradients", "foolbox"})

    @property
    def norm(self) -> Literal["l2"]:
        """The norm that it makes small."""
        return "l2"

    @property
    def epsilon(self) -> None:
        """None: nothing bounds the perturbation."""
        return

    @property
    def passes(self) -> Passes:
        """Cost per image."""
        return Passes(0, 1 + self.search_steps * self.steps * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where any forward pass was wrong by the confidence.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`; on failure, the clean image is returned. The
        library computes in float32.

        Raises:
            CheckError: The library is not installed.
            ModelError: The network has no gradient with respect to its images.
        """
        foolbox = borrow("foolbox")
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            confidence=self.confidence,
            abort_early=False,
        )
        with frozen_eval(model), torch.enable_grad(), quiet():
            input_gradient(model, x, y)  # raises if there is none
            network = _network(View(model, x.dtype, self.draws), x)
            found = attack.run(network, x.detach().float(), foolbox.criteria.Misclassification(y))
        fooled = (found != 0).flatten(1).any(1)  # zeros stand for a failure
        return Crafted(_chosen(fooled, found, x), fooled)


@dataclass(frozen=True)
class HopSkipJump:
    """A decision-based attack: it uses only the predicted class (Chen, Jordan and Wainwright, 2020).

    It walks along the decision boundary, which a random network does not have, so it attacks a :class:`Frozen` view of
    the network. It starts at the image blended with uniform noise or, if no such blend is misclassified, at the nearest
    image of the batch with another predicted class. Misclassified images stay unchanged.

    Attributes:
        steps: Steps along the boundary.
        evaluations: Decisions used to estimate the direction of the first step; the number grows with the square root
            of the step.
        max_evaluations: Maximum number of such decisions per step.
        draws: Realisations of the noise averaged per decision; 1 is enough without noise.
        norm: ``"l2"`` or ``"linf"``: the norm to minimise.
        seed: Seed of the realisations; the attack itself draws from torch's global generator.

    Raises:
        ValueError: A setting is outside its range.
    """

    steps: int = 64
    evaluations: int = 100
    max_evaluations: int = 10_000
    draws: int = 10
    norm: Literal["linf", "l2"] = "l2"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f'norm must be "linf" or "l2", not {self.norm!r}')
        if self.steps < 1 or self.evaluations < 1 or self.max_evaluations < 1 or self.draws < 1:
            raise ValueError(
                f"steps, evaluations, max_evaluations and draws must be at least 1, not {self.steps}, "
                f"{self.evaluations}, {self.max_evaluations} and {self.draws}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Its requirements."""
        return frozenset({"foolbox"})

    @property
    def epsilon(self) -> None:
        """None: nothing bounds the perturbation."""
        return

    @property
    def passes(self) -> Passes:
        """Cost per image, with an estimate for its searches.

        On a random network; a deterministic one needs one pass per decision, not ``draws``.
        """
        directions = sum(self._evaluations(step) for step in range(self.steps))
        return Passes(self.draws * (directions + _SEARCH * (self.steps + 2)), 0)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where the frozen view is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`; if it finds no start, the clean image is
        returned. The library computes in float32.

        Raises:
            CheckError: The library is not installed.
        """
        foolbox = borrow("foolbox")
        attack = foolbox.attacks.HopSkipJumpAttack(
            steps=self.steps,
            initial_gradient_eval_steps=self.evaluations,
            max_gradient_eval_steps=self.max_evaluations,
            constraint=self.norm,
        )
        view = View(Frozen(model, self.draws, self.seed), x.dtype)
        network, pixels = _network(view, x), x.detach().float()
        # The library holds all directions of a step in memory.
        at_once = max(1, _NUMBERS // (self._evaluations(self.steps - 1) * x[0].numel()))
        with frozen_eval(model), torch.no_grad(), quiet():
            predicted = view(pixels).argmax(1)
            fooled, images = predicted != y, pixels.clone()
            for part in _parts(~fooled, at_once):
                start = _starts(foolbox, network, pixels, predicted, y, part)
                # Repeated, since rounding may differ in a batch of another size.
                while len(part) and not (wrong := view(start).argmax(1) != y[part]).all():
                    part, start = part[wrong], start[wrong]
                if len(part):
                    labels = foolbox.criteria.Misclassification(y[part])
                    images[part] = attack.run(network, pixels[part], labels, starting_points=start)
                    fooled[part] = True
        return Crafted(_chosen((images != pixels).flatten(1).any(1), images, x), fooled)

    def _evaluations(self, step: int) -> int:
        return int(min(self.evaluations * math.sqrt(step + 1), self.max_evaluations))


_NUMBERS = 2**25
"""Pixels of all directions that HopSkipJump holds at once: 128 MiB, times four."""

_SEARCH = 25
"""Approximate number of decisions to find a step's length and return to the boundary, for 32×32 images."""

_BLENDS = 100
"""Noise images to try as a starting point."""


def _parts(which: Tensor, size: int) -> Iterator[Tensor]:
    """Indices of the images that are true in ``which``, ``size`` at a time."""
    indices = which.nonzero().flatten()
    for first in range(0, len(indices), size):
        yield indices[first : first + size]


def _starts(foolbox: Any, network: Any, pixels: Tensor, predicted: Tensor, y: Tensor, part: Tensor) -> Tensor:
    """Starting points for the images in ``part``, most of them of another predicted class."""
    blend = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(directions=_BLENDS, steps=50)
    blended = blend.run(network, pixels[part], foolbox.criteria.Misclassification(y[part]))
    distance = torch.cdist(pixels[part].flatten(1), pixels.flatten(1))
    other = distance.where(predicted != y[part][:, None], math.inf).argmin(1)
    return _chosen(network(blended).argmax(1) != y[part], blended, pixels[other])


def _network(view: View, x: Tensor) -> Any:
    # Without a device, foolbox takes the first GPU there is.
    return borrow("foolbox").models.PyTorchModel(view, bounds=(0, 1), device=x.device)


def _chosen(which: Tensor, images: Tensor, others: Tensor) -> Tensor:
    which = which.view(-1, *[1] * (others.dim() - 1))
    return torch.where(which, images.to(others.dtype), others).detach()
