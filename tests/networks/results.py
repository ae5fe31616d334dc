"""Results by hand: what a check would have measured, from a matrix of right and wrong answers."""

import numpy as np

from perturbify.checks.liveness import Liveness
from perturbify.checks.results import Answers, Figure, Result

EPSILON = 8 / 255
QUIET = Liveness(20, 0, 0, 0, (), ())
ALIVE = Liveness(20, 18, 2, 18, (), ())


def result(id, right, role="white box", **changes):
    """A result whose answers are a matrix (n, draws), or a list of one answer for each image."""
    right = np.asarray(right, bool)
    right = right[:, None] if right.ndim == 1 else right
    clean = role == "clean"
    values = {
        "id": id,
        "attack": id,
        "role": role,
        "on": "itself",
        "source": None,
        "noise": "on" if right.shape[1] > 1 else "off",
        "norm": None if clean else "linf",
        "epsilon": None if clean else EPSILON,
        "settings": {} if clean else {"epsilon": EPSILON, "steps": 7, "step_size": 0.01},
        "answers": Answers.of(right),
        "attacked": len(right),
        "shared": False,
        "majority": Figure.of(2 * right.sum(1, keepdims=True) > right.shape[1]),
        "survival": {},
        "unperturbed": 0.0,
        "claimed": None if clean else 0.5,
        "distance": {} if clean else {"linf": EPSILON, "l2": 1.2},
        "forward": 1.0,
        "gradient": 1.0 if role == "one step" else 0.0 if role in ("clean", "black box") else 7.0,
        "seconds": 75.2,
    }
    return Result(**values | changes)


def first(k, n=256, draws=1):
    """The first k of n images right, in all draws."""
    return np.repeat((np.arange(n) < k)[:, None], draws, 1)


def drawn(chances, draws, seed=0):
    """Draws of images that are right with given probabilities."""
    chances = np.asarray(chances, float)
    return np.random.default_rng(seed).random((len(chances), draws)) < chances[:, None]
