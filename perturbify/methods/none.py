"""No defence: plain training."""

from __future__ import annotations

from perturbify.methods.method import Method
from perturbify.methods.registry import NONE, register


@register
class NoDefence(Method):
    """Plain training on clean images."""

    name = NONE
