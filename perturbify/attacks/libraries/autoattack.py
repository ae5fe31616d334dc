"""AutoAttack as reported in papers, from the package ``pyautoattack``, for comparison with our own figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import Crafted, Need, Passes, check_ball
from perturbify.attacks.gradient import frozen_eval, input_gradient
from perturbify.attacks.libraries.borrowed import NORMS, View, borrow, need_classes, quiet
from perturbify.generators import seeded


@dataclass(frozen=True)
class StockAutoAttack:
    """The library's own AutoAttack, with its own settings (Croce and Hein, 2020).

    ``"standard"`` is APGD-CE, APGD-T, FAB-T and Square, each on the images that are still classified correctly.
    ``"rand"``, for random networks, is APGD-CE and APGD-DLR with gradients averaged over 20 draws; it accepts points
    based on the last of these draws, and drops an image as soon as one draw is wrong
    (https://github.com/fra31/auto-attack/issues/105), so the accuracy it claims is lower than that on fresh draws.

    Attributes:
        version: ``"standard"`` or ``"rand"``.
        epsilon: Radius of the ball: for l∞ in pixels, for l2 the length of the whole perturbation.
        norm: ``"linf"`` or ``"l2"``.

    Raises:
        ValueError: A setting is outside its range.
    """

    version: Literal["standard", "rand"] = "standard"
    epsilon: float = 8 / 255
    norm: Literal["linf", "l2"] = "linf"

    def __post_init__(self) -> None:
        if self.version not in ("standard", "rand"):
            raise ValueError(f'version must be "standard" or "rand", not {self.version!r}')
        check_ball(self.norm, self.epsilon)

    @property
    def needs(self) -> frozenset[Need]:
        """Its requirements."""
        return frozenset({"gradients", "4 classes" if self.version == "standard" else "3 classes"})

    @property
    def passes(self) -> Passes:
        """Cost per image, if none is fooled before the end."""
        if self.version == "rand":
            return Passes(10, 1 + 2 * 101 * 20)
        return Passes(5000 + 9 * 104, 1 + 101 + 9 * (101 + 100))

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where any of the library's forward passes was wrong.

        Args and result as for :meth:`perturbify.attacks.Attack.craft`; on failure, the clean image is returned. The
        library computes in float32.

        Raises:
            CheckError: The library is not installed, or there are too few classes.
            ModelError: The network has no gradient with respect to its images.
        """
        library, x = borrow("pyautoattack"), x.detach()
        seed = int(torch.randint(2**31, ()).item())  # the library seeds the global generators
        view = View(model, x.dtype)
        with frozen_eval(model), torch.no_grad(), quiet(), seeded(seed, {x.device}), _traced():
            logits = model(x)
            need_classes(self, model, logits)
            input_gradient(model, x, y)  # raises if there is none
            attack = library.AutoAttack(
                view, norm=NORMS[self.norm], eps=self.epsilon, version=self.version, device=x.device, seed=seed
            )
            attack.verbose = False
            attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = min(9, logits.shape[1] - 1)
            images, answers = attack.run_standard_evaluation(x.float(), y, batch_size=len(x))
            return Crafted(images.to(x.dtype), answers != y)


@contextmanager
def _traced() -> Iterator[None]:
    """Restores the trace function of a debugger or coverage tool, which the library removes."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
