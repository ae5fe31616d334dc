"""How often images are classified rightly, by fresh draws of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.attacks import frozen_eval


@dataclass(frozen=True)
class Scores:
    """What fresh draws said of a batch.

    Attributes:
        right: Shape (N, K), bool: draw by draw, whether the answer was right.
        majority: Shape (N,), bool: whether the right class came more often than any other.
        answer: Shape (N,), int64: the class that came most often; -1 where no draw gave any.
        lasted: Shape (N,), int64: how many answers in a row were right from the first on, capped at the queries asked.
    """

    right: Tensor
    majority: Tensor
    answer: Tensor
    lasted: Tensor

    def of(self, images: list[int]) -> Scores:
        """The scores of some of the images."""
        return Scores(self.right[images], self.majority[images], self.answer[images], self.lasted[images])


@torch.no_grad()
def score(model: nn.Module, images: Tensor, y: Tensor, *, draws: int, queries: int) -> Scores:
    """Classifies images again and again; no image is dropped, whatever a draw says of it.

    Args:
        model: A classifier, its noise as it is; each forward is a draw of its own.
        images: Shape (N, C, H, W).
        y: True labels, shape (N,), int64.
        draws: Times that every image is classified: K.
        queries: Times that those images are classified that were right every time before; no less than ``draws``.

    Returns:
        What the draws said of each image.
    """
    with frozen_eval(model):
        logits = [model(images) for _ in range(draws)]
        right = torch.stack([_right(z, y) for z in logits], dim=1)
        votes = torch.stack([_votes(z) for z in logits]).sum(0)
        lasted = right.long().cumprod(1).sum(1)
        unfailing = right.all(1).nonzero().flatten()
        while len(unfailing) and int(lasted[unfailing[0]]) < queries:
            unfailing = unfailing[_right(model(images[unfailing]), y[unfailing])]
            lasted[unfailing] += 1
    for_truth = votes.gather(1, y[:, None]).squeeze(1)
    for_others = votes.scatter(1, y[:, None], -1).amax(1)
    answer = torch.where(votes.sum(1) > 0, votes.argmax(1), -1)
    return Scores(right, for_truth > for_others, answer, lasted)


def _right(logits: Tensor, y: Tensor) -> Tensor:
    # To argmax, NaN is the greatest of numbers; here it is no answer.
    return (logits.argmax(1) == y) & ~logits.isnan().any(1)


def _votes(logits: Tensor) -> Tensor:
    return F.one_hot(logits.argmax(1), logits.shape[1]) * ~logits.isnan().any(1, keepdim=True)
