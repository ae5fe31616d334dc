"""Is the noise alive? Observed in two forward passes of the network itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.attacks import frozen_eval
from perturbify.perturbation import Perturbation, noise, perturbations
from perturbify.surgery.noisy import Perturbed
from perturbify.surgery.observe import ConvolutionCount


@dataclass(frozen=True)
class Liveness:
    """What two forward passes in eval mode showed.

    Attributes:
        convolutions: Calls of ``aten.convolution`` in one pass, counted below autograd, whatever module makes them.
        perturbed: Calls of noise modules in one pass.
        skipped: Convolution calls skipped on purpose; None if the noise is not at convolutions.
        sites: Noise modules.
        dead: Sites that were not called, returned the same twice for one feature map, or added the same in both passes.
        below_floor: Sites with an entry of θ below θ_min, or not finite.
    """

    convolutions: int
    perturbed: int
    skipped: int | None
    sites: int
    dead: tuple[str, ...]
    below_floor: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        """One sentence for each defect; none for a network without noise, which claims nothing."""
        if not self.sites:
            return []
        found = []
        if self.skipped is not None and self.convolutions != self.perturbed + self.skipped:
            found.append(
                f"{self.convolutions} convolution calls, but noise after {self.perturbed} ({self.skipped} skipped "
                "on purpose)"
            )
        if self.dead:
            found.append(f"no fresh noise at {_some(self.dead)}")
        if self.below_floor:
            found.append(f"θ below θ_min or not finite at {_some(self.below_floor)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return asdict(self) | {
            "dead": list(self.dead),
            "below_floor": list(self.below_floor),
            "alive": bool(self.sites) and not self.failures,
            "failures": self.failures,
        }


def examine(model: nn.Module, *inputs: Any, **named: Any) -> Liveness:
    """Runs a network twice with its noise on and looks at every site.

    Args:
        model: Any network; its modes are restored. Random numbers come from torch's global generator.
        inputs: Its positional inputs: usually a few images, shape (N, C, H, W), in [0, 1].
        named: Its keyword inputs.
    """
    sites = dict(perturbations(model))
    with frozen_eval(model), noise(model, True), torch.no_grad():
        first, convolutions, calls = _pass(model, sites, inputs, named)
        second, _, _ = _pass(model, sites, inputs, named)
    wrapped = [m for m in model.modules() if isinstance(m, Perturbed)]
    skipped = [sum(s.modes != "train" for s in m.surgery.plan.skipped) for m in wrapped if _at_convolutions(m)]
    resting = {m.get_submodule(s.path) for m in wrapped for s in m.surgery.plan.sites if s.modes == "train"}
    return Liveness(
        convolutions=convolutions,
        perturbed=calls,
        skipped=sum(skipped) if len(skipped) == len(wrapped) else None,
        sites=len(sites),
        dead=tuple(n for n, p in sites.items() if p not in resting and _same(first.get(n), second.get(n))),
        below_floor=tuple(n for n, p in sites.items() if not _sound(p)),
    )


def _pass(
    model: nn.Module, sites: dict[str, Perturbation], inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[dict[str, Tensor | None], int, int]:
    """One forward: the noise each site added in its first call, the convolution calls, and the calls of sites.

    The noise is None if it is not finite, or if the site, called again, returns the same for the very same feature map.
    Two passes cannot show that: except at the first site the feature maps differ, and rounding makes the noise differ
    with them.
    """
    added: dict[str, Tensor | None] = {}
    calls = 0

    def watch(name: str) -> Any:
        def hook(site: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal calls
            calls += 1
            if name not in added:
                again = site.forward(*inputs)  # bypasses the hooks, which count calls
                noise = output - inputs[0]
                added[name] = None if torch.equal(output, again) or not bool(noise.isfinite().all()) else noise

        return hook

    with _hooks(sites, watch), ConvolutionCount() as count:
        model(*inputs, **named)
    return added, count.total, calls


@contextmanager
def _hooks(sites: dict[str, Perturbation], watch: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(watch(name)) for name, module in sites.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is None or second is None or torch.equal(first, second)


def _at_convolutions(network: Perturbed) -> bool:
    config = network.surgery.plan.config
    return config is None or config.site in ("output", "input")


def _sound(site: Perturbation) -> bool:
    floor = -math.inf if site.theta_min is None else site.theta_min
    return bool((site.theta.isfinite() & (site.theta >= floor)).all())


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more sites" if len(names) > 3 else "")
