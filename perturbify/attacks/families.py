"""The attacks that the library brings, by name, with the settings that their authors or our measurements recommend."""

from __future__ import annotations

from perturbify.attacks.few_pixel import FewPixel
from perturbify.attacks.libraries import Apgd, ApgdT, CarliniWagner, FabT, HopSkipJump, Square
from perturbify.attacks.momentum import MarginPgd
from perturbify.attacks.projected import Pgd
from perturbify.attacks.random_search import RandomSearch
from perturbify.attacks.registry import register

L2_PER_LINF = 0.5 / (8 / 255)
"""The literature's l2 radius on CIFAR-10, 0.5, goes with its l∞ radius, 8/255."""


def _fgsm(epsilon: float) -> Pgd:
    return Pgd(epsilon, step_size=epsilon, steps=1, random_start=False)


def _pgd(epsilon: float) -> Pgd:
    return Pgd(epsilon, step_size=epsilon / 4, steps=20)


def _l2(epsilon: float) -> Pgd:
    radius = L2_PER_LINF * epsilon
    return Pgd(radius, step_size=radius / 4, steps=20, norm="l2")


def _apgd_dlr(epsilon: float) -> Apgd:
    return Apgd("dlr", epsilon)


def _apgd(epsilon: float) -> Apgd:
    return Apgd("ce", epsilon)


def _few_pixel(_: float) -> FewPixel:
    return FewPixel(1)


def _cw(_: float) -> CarliniWagner:
    return CarliniWagner()


def _hopskipjump(_: float) -> HopSkipJump:
    return HopSkipJump()


register("fgsm", _fgsm, about="one step of length ε", role="one step", needs=["gradients"])
register("pgd", _pgd, about="projected steps on the cross-entropy", role="white box", needs=["gradients"])
register("margin", MarginPgd, about="falling steps on the margin, with momentum", role="white box", needs=["gradients"])
register("square", Square, about="random search with squares, by queries", role="black box")
register("apgd", _apgd, about="APGD on the cross-entropy", role="white box", needs=["gradients"])
register(
    "apgd-dlr",
    _apgd_dlr,
    about="APGD on the difference of logits ratio",
    role="white box",
    needs=["gradients", "3 classes"],
)
register("apgd-t", ApgdT, about="APGD towards the likely classes", role="white box", needs=["gradients", "4 classes"])
register("fab", FabT, about="the nearest border of each likely class", role="white box", needs=["gradients"])
register("few-pixel", _few_pixel, about="one pixel, by differential evolution", role="black box")
register("l2", _l2, about="projected steps in an l2 ball: 0.5 for ε = 8/255", role="white box", needs=["gradients"])
register(
    "cw", _cw, about="Carlini and Wagner's smallest change in l2", role="white box", needs=["gradients", "foolbox"]
)
register(
    "hopskipjump", _hopskipjump, about="the smallest change in l2, by decisions", role="black box", needs=["foolbox"]
)
register("random", RandomSearch, about="the worst of random points of the ball", role="black box")
