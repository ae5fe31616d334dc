"""APGD and Square of AutoAttack, by its package ``pyautoattack``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import Crafted, Passes, check_ball
from perturbify.attacks.gradient import attacked, input_gradient
from perturbify.attacks.libraries.borrowed import View, borrow, quiet
from perturbify.attacks.realisations import Frozen
from perturbify.errors import CheckError


@dataclass(frozen=True)
class Apgd:
    """Auto-PGD, which chooses its step sizes by itself (Croce and Hein, 2020).

    It runs with the library's ``best_loss``: every image is attacked in every restart, and the point with the greatest
    loss comes back. Without it the library leaves out each image that one draw of the noise gets wrong, and gives the
    clean image back for each that no single draw got wrong. Gradients are averaged over ``draws`` fresh draws; the
    loss that chooses the point and the step size is that of the last of them, as the library has it.

    Attributes:
        loss: ``"ce"``, cross-entropy, or ``"dlr"``, difference of logits ratio, which needs three classes.
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        steps: Number of steps; 100 in the paper.
        restarts: Runs from other random points.
        draws: Draws of the noise that each step's gradient is averaged over; 20 in AutoAttack's ``rand`` version.
        norm: ``"linf"`` or ``"l2"``.

    Raises:
        ValueError: A setting is outside its range.
    """

    loss: Literal["ce", "dlr"] = "ce"
    epsilon: float = 8 / 255
    steps: int = 100
    restarts: int = 1
    draws: int = 20
    norm: Literal["linf", "l2"] = "linf"

    def __post_init__(self) -> None:
        if self.loss not in ("ce", "dlr"):
            raise ValueError(f'loss is "ce" or "dlr", not {self.loss!r}')
        check_ball(self.norm, self.epsilon)
        if self.steps < 1 or self.restarts < 1 or self.draws < 1:
            raise ValueError(
                f"steps, restarts and draws must be at least 1, not {self.steps}, {self.restarts} and {self.draws}"
            )

    @property
    def passes(self) -> Passes:
        """Its cost."""
        return Passes(3, 1 + self.restarts * (self.steps + 1) * self.draws)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; it holds that it succeeded where one more draw is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed, or the loss is ``"dlr"`` and there are fewer than three classes.
            ModelError: The network gives no gradient for its images.
        """
        library = borrow("pyautoattack.autopgd_base")
        view = View(model, x.dtype)
        apgd = library.APGDAttack(
            view,
            n_iter=self.steps,
            norm=_NAMES[self.norm],
            n_restarts=self.restarts,
            eps=self.epsilon,
            loss=self.loss,
            eot_iter=self.draws,
        )
        with attacked(model), torch.no_grad(), quiet():
            classes = view(x).shape[1]
            if self.loss == "dlr" and classes < 3:
                raise CheckError(
                    f"The DLR loss compares three classes, and {type(model).__name__} has {classes}.",
                    'Attack it with loss="ce".',
                )
            input_gradient(model, x, y)  # which says so where there is none
            images = apgd.perturb(x, y, best_loss=True)
            return Crafted(images.detach().to(x.dtype), view(images).argmax(1) != y)


@dataclass(frozen=True)
class Square:
    """Random search with squares, without gradients (Andriushchenko et al., 2020).

    A search that asks a random network keeps the luckiest draw, so this one asks a :class:`Frozen` view of it. The
    library stops for an image at its first success, where the image just crosses the border and fresh noise
    throws it back over; here it lowers the margin for as long as there are queries, and the image with the lowest
    margin comes back, failed or not. On a deterministic network this fools the same images.

    Attributes:
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        queries: Candidates for each image, the first aside.
        draws: Realisations of the noise that a query averages; 1 is enough without noise.
        norm: ``"linf"`` or ``"l2"``.
        seed: Of the realisations; the search itself draws from torch's global generator.

    Raises:
        ValueError: A setting is outside its range.
    """

    epsilon: float = 8 / 255
    queries: int = 5000
    draws: int = 10
    norm: Literal["linf", "l2"] = "linf"
    seed: int = 0

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon)
        if self.queries < 1 or self.draws < 1:
            raise ValueError(f"queries and draws must be at least 1, not {self.queries} and {self.draws}")

    @property
    def passes(self) -> Passes:
        """Its cost: that of a random network; a deterministic one needs one pass for a query, not ``draws``."""
        return Passes(self.draws * (self.queries + 2), 0)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; it holds that it succeeded where the frozen view is wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`. The library computes in float32.

        Raises:
            CheckError: The library is not installed, or images are too small for squares.
        """
        if self.norm == "l2" and min(x.shape[2:]) < _SMALLEST:
            raise CheckError(
                f"Square in l2 needs images of {_SMALLEST} pixels a side, not {x.shape[2]}×{x.shape[3]}.",
                'Attack them with norm="linf".',
            )
        library = borrow("pyautoattack.square")
        view = View(Frozen(model, self.draws, self.seed), x.dtype)
        square = library.SquareAttack(view, norm=_NAMES[self.norm], n_queries=self.queries, eps=self.epsilon)
        margins = square.margin_and_loss

        def never_done(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            margin, loss = margins(images, labels)
            return torch.ones_like(margin), loss

        square.margin_and_loss = never_done
        pixels = x.detach().float()
        with attacked(model), torch.no_grad(), quiet():
            square.init_hyperparam(pixels)
            _, images = square.attack_single_run(pixels, y)
            return Crafted(images.to(x.dtype), view(images).argmax(1) != y)


_NAMES = {"linf": "Linf", "l2": "L2"}
_SMALLEST = 5  # the first candidate of l2 is laid out in five tiles a side
