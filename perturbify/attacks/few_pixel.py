"""The few-pixel attack: differential evolution over positions and colours, without gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perturbify.attacks.attack import COMPARING_DRAWS, Crafted, Norm, Passes, wrong
from perturbify.attacks.gradient import frozen_eval

DIFFERENTIAL_WEIGHT = 0.5
"""The paper's F: weight of the difference of two others in a child."""

FINALISTS = 16
"""Candidates of the last population that are scored again: their scores from the search are partly luck."""

CANDIDATES_PER_FORWARD = 512
"""Maximum number of images in one forward pass, whatever the batch and population: bounds the memory."""


@dataclass(frozen=True)
class FewPixel:
    """Repaints a few pixels, with positions and colours found by differential evolution (Su et al., 2019).

    The search of "One pixel attack for fooling deep neural networks": DE/rand/1 with F = 0.5 and no crossover;
    positions are initialised uniformly, colours from a normal distribution around grey; a child replaces its own parent
    if the probability of the true class is no higher.

    Two things differ, for random networks. No image stops early, since a single wrong answer can be a lucky draw. And
    the result is not simply the candidate with the best score, which is partly luck: the :data:`FINALISTS` best are
    scored again, each on as many draws as in the search, but at least
    :data:`~perturbify.attacks.attack.COMPARING_DRAWS`.

    Attributes:
        pixels: Pixels that may change, each in all its channels; the literature uses 1, 2, 3 and 5.
        population: Candidates of each image, at least 4.
        generations: Generations after the first population; 0 only paints at random.
        draws: Draws of the noise that each candidate's probability is averaged over.

    Raises:
        ValueError: A setting is outside its range.
    """

    pixels: int = 1
    population: int = 400
    generations: int = 100
    draws: int = 1

    def __post_init__(self) -> None:
        if self.pixels < 1 or self.draws < 1:
            raise ValueError(f"pixels and draws must be at least 1, not {self.pixels} and {self.draws}")
        if self.population < 4:
            raise ValueError(f"population must be at least 4, a candidate and three others, not {self.population}")
        if self.generations < 0:
            raise ValueError(f"generations must be at least 0, not {self.generations}")

    @property
    def norm(self) -> Norm:
        """Counts pixels, not channels."""
        return "l0"

    @property
    def epsilon(self) -> float:
        """Pixels that may change."""
        return float(self.pixels)

    @property
    def passes(self) -> Passes:
        """Its cost."""
        search = (1 + self.generations) * self.population * self.draws
        final = min(FINALISTS, self.population) * max(self.draws, COMPARING_DRAWS)
        return Passes(search + final + 1, 0)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Crafted:
        """Attacks a batch; claims success where one more draw is wrong.

        An image is returned unchanged only if a pixel's own colour was the best one found.
        """
        x = x.detach()
        with frozen_eval(model), torch.no_grad():
            images = _paint(x, self._search(model, x, y))
            return Crafted(images, wrong(model, images, y))

    def _search(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The candidate to paint on each image, shape (N, pixels, 2 + C)."""
        parents = _first(x, self.population, self.pixels)
        records = _error(model, x, y, parents, self.draws)
        for _ in range(self.generations):
            children = _children(parents)
            errors = _error(model, x, y, children, self.draws)
            better = errors >= records  # ties too, or the search would not cross a plateau
            parents = torch.where(better[..., None, None], children, parents)
            records = torch.where(better, errors, records)
        finalists = _pick(parents, records.topk(min(FINALISTS, self.population)).indices)
        errors = _error(model, x, y, finalists, max(self.draws, COMPARING_DRAWS))
        return _pick(finalists, errors.argmax(1, keepdim=True)).squeeze(1)


# A candidate holds the row, column and colour of each pixel, all in [0, 1]: shape (pixels, 2 + C). The populations of
# all images are searched together, shape (N, population, pixels, 2 + C), in at least single precision: bfloat16 cannot
# tell the columns of a large image apart.


def _first(x: Tensor, population: int, pixels: int) -> Tensor:
    shape = (len(x), population, pixels)
    dtype = torch.promote_types(x.dtype, torch.float32)
    place = torch.rand(*shape, 2, device=x.device, dtype=dtype)
    colour = 0.5 + 0.5 * torch.randn(*shape, x.shape[1], device=x.device, dtype=dtype)  # the paper's N(128, 127)
    return torch.cat([place, colour.clamp(0, 1)], -1)


def _children(parents: Tensor) -> Tensor:
    base, plus, minus = (_pick(parents, others) for others in _three_others(parents))
    return (base + DIFFERENTIAL_WEIGHT * (plus - minus)).clamp(0, 1)


def _three_others(parents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each member of each population the indices of three others, all different, each (N, population)."""
    n, population = parents.shape[:2]

    def below(limit: int) -> Tensor:
        return torch.randint(limit, (n, population), device=parents.device)

    # Offsets modulo the population; drawn from those left, then shifted past those taken.
    first, second, third = below(population - 1), below(population - 2), below(population - 3)
    second += second >= first
    third += third >= torch.minimum(first, second)
    third += third >= torch.maximum(first, second)
    own = torch.arange(population, device=parents.device)
    a, b, c = ((own + 1 + distance) % population for distance in (first, second, third))
    return a, b, c


def _pick(candidates: Tensor, indices: Tensor) -> Tensor:
    """The candidates of each image at ``indices``, shape (N, k): (N, k, pixels, 2 + C)."""
    return candidates[torch.arange(len(candidates), device=candidates.device)[:, None], indices]


def _paint(images: Tensor, candidates: Tensor) -> Tensor:
    """Paints each candidate's pixels onto its image; the later of two pixels at one position wins."""
    painted = images.clone()
    height, width = images.shape[2:]
    each = torch.arange(len(images), device=images.device)
    for row, column, colour in ((c[:, 0], c[:, 1], c[:, 2:]) for c in candidates.unbind(1)):
        i, j = (row * height).long().clamp(max=height - 1), (column * width).long().clamp(max=width - 1)
        painted[each, :, i, j] = colour.to(images.dtype)
    return painted


def _error(model: nn.Module, x: Tensor, y: Tensor, candidates: Tensor, draws: int) -> Tensor:
    """Probability of all classes except the true one, averaged over draws, shape (N, number of candidates).

    Summed over those classes: one minus the probability of the true class rounds to zero once a network is fairly sure.
    """
    n, each = candidates.shape[:2]
    image = torch.arange(n, device=x.device).repeat_interleave(each)
    means = []
    for chunk, chosen in zip(
        image.split(CANDIDATES_PER_FORWARD), candidates.flatten(0, 1).split(CANDIDATES_PER_FORWARD), strict=True
    ):
        painted, true = _paint(x[chunk], chosen), y[chunk, None]
        # One forward pass per draw: copies in one batch would share a draw that is made per batch.
        errors = [model(painted).float().softmax(1).scatter(1, true, 0).sum(1) for _ in range(draws)]
        means.append(torch.stack(errors).mean(0))
    return torch.cat(means).nan_to_num(nan=1.0).view(n, each)  # NaN counts as wrong
