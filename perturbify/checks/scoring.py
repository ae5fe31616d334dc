"""How often images are classified correctly under fresh draws of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbify.attacks import frozen_eval


@dataclass(frozen=True)
class Scores:
    """The answers of fresh draws for a batch.

    Attributes:
        right: Shape (N, K), bool: draw by draw, whether the answer was right.
        majority: Shape (N,), bool: whether the right class was more frequent than any other.
        answer: Shape (N,), int64: the most frequent class; -1 if no draw gave one.
        lasted: Shape (N,), int64: how many answers in a row were right from the first on, at most the number of
            queries.
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
    """Classifies images repeatedly; no image is dropped, whatever a draw answers.

    Args:
        model: A classifier; its noise stays as it is set, and each forward is a new draw.
        images: Shape (N, C, H, W).
        y: True labels, shape (N,), int64.
        draws: How often every image is classified: K.
        queries: How often an image is classified that was right every time before; at least ``draws``.

    Returns:
        The answers for each image.
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
    # argmax takes NaN for the greatest number; here it is not an answer.
    return (logits.argmax(1) == y) & ~logits.isnan().any(1)


def _votes(logits: Tensor) -> Tensor:
    return F.one_hot(logits.argmax(1), logits.shape[1]) * ~logits.isnan().any(1, keepdim=True)
