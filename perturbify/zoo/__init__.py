"""Zoo: builds a network from a name, and records how to build it again.

A name is looked up among the paper's CIFAR networks, timm's models, and torchvision's models, in this order; or it is
the user's own ``package.module:factory``. :func:`create` tags what it builds with a :class:`ModelSpec`, which a
checkpoint keeps.
"""

from perturbify.zoo.build import build, create
from perturbify.zoo.facts import describe, input_size, normalization
from perturbify.zoo.inputs import example_input
from perturbify.zoo.names import LIBRARIES, also_known_as, check_trusted, is_factory, model_names, resolve
from perturbify.zoo.spec import ModelSpec

__all__ = [
    "LIBRARIES",
    "ModelSpec",
    "also_known_as",
    "build",
    "check_trusted",
    "create",
    "describe",
    "example_input",
    "input_size",
    "is_factory",
    "model_names",
    "normalization",
    "resolve",
]
