"""The true accuracy of a classifier: under an attacker who knows how it is built.

Plain torch, without :mod:`perturbify.attacks`, which it evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 60
DRAWS = 20
CHUNK = 64
# The target of a restart: none, or the first, second, third best wrong class.
AIMS = (None, 0, None, 1, 2)


@dataclass(frozen=True)
class Truth:
    """Shares of images, as mean probabilities over the draws.

    Attributes:
        clean: Right without an attack.
        naive: Right after PGD-7 on the cross-entropy, the attack of many papers.
        left: Right under the worst attack found.
    """

    clean: float
    naive: float
    left: float


def measure(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    random: bool,
    transfers: Iterable[Tensor] = (),
    surrogate: nn.Module | None = None,
    seed: int = 0,
) -> Truth:
    """Attacks a classifier, chooses the worst for each image on one set of its answers, and scores on others.

    Args:
        make: Builds the classifier afresh each time, so that it does not remember the attack.
        x: Images in [0, 1], shape (N, C, H, W).
        y: Their labels.
        epsilon: Radius of the l∞ ball.
        random: Whether its answers are random; if so, a step averages gradients, :data:`DRAWS` of them after a first
            try.
        transfers: Transferred adversarial images to try first.
        surrogate: A stand-in to attack before the classifier itself.
        seed: Seed of the starting points and, if possible, the draws.
    """
    torch.manual_seed(seed)
    draws = DRAWS if random else 1
    clean = _right(make, x, y, draws)
    naive, crafted = _naive(make(), x, y, epsilon)
    worst, right = x.clone(), clean.clone()

    def keep(alive: Tensor, found: Tensor) -> None:
        score = _right(make, found, y[alive], draws)
        better = score < right[alive]
        right[alive[better]], worst[alive[better]] = score[better], found[better]

    for images in (crafted, *transfers):
        alive = _alive(right)
        keep(alive, images[alive])
    for target in [make] if surrogate is None else [lambda: surrogate, make]:
        varied = random and _differs(target(), x)
        for restart, averaged in enumerate((DRAWS // 5, DRAWS, DRAWS) if varied else [1] * len(AIMS)):
            alive = _alive(right)
            if len(alive):
                keep(alive, craft(target(), x[alive], y[alive], epsilon, restart=restart, draws=averaged))
    return Truth(clean.mean().item(), naive, _right(make, worst, y, draws).mean().item())


def craft(net: nn.Module, x: Tensor, y: Tensor, epsilon: float, *, restart: int = 0, draws: int = 1) -> Tensor:
    """Ascends a wrong class's margin with momentum, and returns the best images on the way."""
    net.eval()
    return torch.cat([_craft(net, *part, epsilon, restart, draws) for part in _chunks(x, y)])


def _craft(net: nn.Module, x: Tensor, y: Tensor, epsilon: float, restart: int, draws: int) -> Tensor:
    with torch.no_grad():
        others = net(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    start = torch.zeros_like(x) if restart < 2 else torch.empty_like(x).uniform_(-epsilon, epsilon)
    adversarial, momentum = (x + start).clamp(0, 1), torch.zeros_like(x)
    best, lead = adversarial, torch.full((len(x),), -torch.inf, device=x.device)
    aim = AIMS[restart]
    for step in range(STEPS + 1):
        margin, gradient = _ascent(net, adversarial, y, None if aim is None else others[:, aim], draws)
        better = margin > lead
        best, lead = torch.where(better[:, None, None, None], adversarial, best), torch.where(better, margin, lead)
        if not gradient.any():
            break
        size = gradient.abs().flatten(1).mean(1)[:, None, None, None]
        momentum = 0.75 * momentum + gradient / size.clamp_min(1e-38)
        length = epsilon * 0.5 * (1 - step / (STEPS + 1))
        adversarial = _within(adversarial + length * momentum.sign(), x, epsilon)
    return best


def _ascent(net: nn.Module, x: Tensor, y: Tensor, aim: Tensor | None, draws: int) -> tuple[Tensor, Tensor]:
    """Mean lead of the other class over draws, and its gradient with non-finite entries set to 0."""
    lead, gradient = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
    for _ in range(draws):
        x = x.detach().requires_grad_()
        z = net(x)
        own = z.gather(1, y[:, None])[:, 0]
        rest = z.scatter(1, y[:, None], -torch.inf).amax(1) if aim is None else z.gather(1, aim[:, None])[:, 0]
        lead += (rest - own).detach().nan_to_num(-torch.inf)
        gradient += _gradient((rest - own).sum(), x)
    return lead / draws, gradient / draws


def _gradient(loss: Tensor, x: Tensor) -> Tensor:
    gradient = torch.autograd.grad(loss, x, allow_unused=True)[0] if loss.requires_grad else None
    return torch.zeros_like(x) if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)


def _naive(net: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> tuple[float, Tensor]:
    """Accuracy under PGD-7, with one gradient per step and one scored answer, after it has seen the images."""
    net.eval()
    right, crafted = [], []
    for images, labels in _chunks(x, y):
        with torch.no_grad():
            net(images)
        adversarial = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
        for _ in range(7):
            adversarial.requires_grad_()
            gradient = _gradient(F.cross_entropy(net(adversarial), labels), adversarial)
            adversarial = _within(adversarial.detach() + epsilon / 3 * gradient.sign(), images, epsilon)
        with torch.no_grad():
            right.append(net(adversarial).argmax(1) == labels)
        crafted.append(adversarial)
    return torch.cat(right).float().mean().item(), torch.cat(crafted)


@torch.no_grad()
def _right(make: Callable[[], nn.Module], x: Tensor, y: Tensor, draws: int) -> Tensor:
    """How often a new classifier is right on each image."""
    if not len(x):
        return torch.zeros(0, device=x.device)
    net = make().eval()
    answers = [torch.cat([net(part).argmax(1) == label for part, label in _chunks(x, y)]) for _ in range(draws)]
    return torch.stack(answers).float().mean(0)


def _alive(right: Tensor) -> Tensor:
    """Images that are still right in more than one of twenty answers."""
    return (right > 1 / DRAWS).nonzero().flatten()


@torch.no_grad()
def _differs(net: nn.Module, x: Tensor) -> bool:
    """Whether a network's answers change when repeated."""
    net.eval()
    return not torch.equal(net(x[:CHUNK]), net(x[:CHUNK]))


def _within(adversarial: Tensor, x: Tensor, epsilon: float) -> Tensor:
    return adversarial.clamp(x - epsilon, x + epsilon).clamp(0, 1)


def _chunks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x.split(CHUNK), y.split(CHUNK), strict=True)
