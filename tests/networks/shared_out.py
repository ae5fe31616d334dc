"""A check that two processes share out."""

from dataclasses import replace

from networks.greys import PLAN, brightness, noisy
from perturbify import check

SPLIT = (20, 60)
SHARED = replace(PLAN, attacks=("fgsm", "margin", "square"), gradients=8, square_queries=16, draws=20, batch_size=16)


def network():
    """So noisy that some images are lost under attack, and some are right now and then."""
    return noisy(theta=2.0)


def whole_check(folder=None, **heard):
    return check(network(), brightness(*SPLIT), SHARED, folder=folder, **heard)


def whole_report(folder):
    return whole_check(folder).to_dict()
