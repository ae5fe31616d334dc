"""Vanilla: adversarial training without noise.

Madry, Makelov, Schmidt, Tsipras, Vladu: "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018),
with the loss of the Learn2Perturb paper: half clean, half adversarial.
"""

from __future__ import annotations

from perturbify.methods.method import Method
from perturbify.methods.registry import register


@register
class Vanilla(Method):
    """PGD training without noise."""

    name = "vanilla"
    source = "Madry et al., ICLR 2018"
    adversarial = True
