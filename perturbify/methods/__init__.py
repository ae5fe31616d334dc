"""The defences: which noise, which loss, which parameters learn from what."""

from __future__ import annotations

from dataclasses import dataclass

from perturbify.errors import RecipeError, nearest


@dataclass(frozen=True)
class Method:
    """A defence, as the training loop needs to know it.

    Attributes:
        name: Its name in recipes.
        noisy: Whether noise modules are put into the network.
        adversarial: Whether it trains on adversarial images as well.
        theta_from_loss: Whether θ also follows the gradient of the network's loss, or the regulariser alone.
    """

    name: str
    noisy: bool
    adversarial: bool
    theta_from_loss: bool = True


METHODS = {
    m.name: m
    for m in (
        Method("learn2perturb", noisy=True, adversarial=True),
        # Learn2Perturb-R, the paper's ablation: every θ follows one deterministic schedule.
        Method("learn2perturb-r", noisy=True, adversarial=True, theta_from_loss=False),
        # Madry et al., 2018, with the paper's half clean, half adversarial loss.
        Method("vanilla", noisy=False, adversarial=True),
        Method("none", noisy=False, adversarial=False),
    )
}


def get(name: str) -> Method:
    """Looks a defence up.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in METHODS:
        raise RecipeError(f"There is no method {name!r}.", nearest(name, METHODS) or f"There are {', '.join(METHODS)}.")
    return METHODS[name]
