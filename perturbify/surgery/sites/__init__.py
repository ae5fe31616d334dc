"""Kinds of site, one file each family: what may be perturbed in a network, and how its noise gets there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.observe import Observation
from perturbify.surgery.plan import Site, Skipped
from perturbify.surgery.sites import addition, convolution, weight


class Kind(Protocol):
    """The functions of a kind of site."""

    def find(
        self, network: nn.Module, seen: Mapping[str, Observation], config: PerturbConfig
    ) -> tuple[list[Site], list[Skipped], dict[str, float]]:
        """The sites of a network, what is skipped, and by site name the spread of what is perturbed.

        Args:
            network: A copy that may run.
            seen: A forward in each mode.
            config: The settings.
        """

    def insert(self, network: nn.Module, sites: list[Site], seen: Mapping[str, Observation]) -> None:
        """Adds the steps that call the noise modules; the modules are already in place."""


KINDS: dict[str, Kind] = {
    "output": convolution.Output(),
    "input": convolution.Input(),
    "norm": convolution.Norm(),
    "addition": addition.Addition(),
    "weight": weight.Weight(),
    "parameter": weight.Weight(),
}
"""By ``PerturbConfig.site``."""
