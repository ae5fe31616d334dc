"""Networks of other libraries, built small from their configurations or constructors, without downloads.

One module per library, imported on demand; each has ``names()``, the names of its networks, and ``build(name)``. A
network that cannot run as its library builds it is not listed, and its module says why.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch

from perturbify.census.libraries.network import Network
from perturbify.errors import PerturbifyError, UnknownModel, nearest

__all__ = ["ROOMS", "Network", "build", "installed", "network_names", "package"]

ROOMS = {
    "diffusers": ("of_diffusers", "diffusers"),
    "monai": ("of_monai", "monai"),
    "pytorchcv": ("of_pytorchcv", "pytorchcv"),
    "segmentation_models_pytorch": ("of_smp", "segmentation-models-pytorch"),
    "transformers": ("of_transformers", "transformers"),
    "ultralytics": ("of_ultralytics", "ultralytics"),
}
"""For each library, its module here and its package on PyPI."""


def network_names(library: str) -> list[str]:
    """The qualified names of a library's networks: ``monai:BasicUNet``.

    Raises:
        PerturbifyError: It is not installed.
    """
    return [f"{library}:{bare}" for bare in _room(library).names()]


def build(name: str) -> Network:
    """Builds a network, deterministically.

    Args:
        name: Qualified name, as :func:`network_names` lists it.

    Raises:
        UnknownModel: There is no such network.
        PerturbifyError: Its library is not installed.
    """
    library, _, bare = name.partition(":")
    room = _room(library)
    known = room.names()
    if bare not in known:
        raise UnknownModel(f"The census has no network {name!r}.", nearest(bare, known) or None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Network = room.build(bare)
    return network


def package(library: str) -> str:
    """A library's package on PyPI."""
    return ROOMS[library][1]


def installed(library: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(library) is not None


def _room(library: str) -> ModuleType:
    module, package = ROOMS[library]
    if not installed(library):
        raise PerturbifyError(f"{library} is not installed.", f"Its package is {package}: pip install {package}.")
    return importlib.import_module(f"perturbify.census.libraries.{module}")
