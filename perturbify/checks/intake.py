"""What is looked at before a check begins: do network and images fit, and which ones are they?"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from perturbify.attacks import attacked
from perturbify.data import Split
from perturbify.errors import CheckError, PerturbifyError
from perturbify.text import first_line, times


def count_classes(model: nn.Module, images: Tensor, split: Split, classes: int | None) -> int:
    """Makes sure that a network classifies the images of a split, and says among how many classes.

    Args:
        model: Any network.
        images: Some of the images, shape (N, C, H, W).
        split: All of them.
        classes: How many classes the data have, if that is known.

    Raises:
        CheckError: It does not take them, or tells other classes apart.
    """
    try:
        with attacked(model), torch.no_grad():
            logits = model(images)
    except PerturbifyError:
        raise
    except Exception as error:
        what = f"{times(images.shape[1:])} images in {str(images.dtype).removeprefix('torch.')}"
        raise CheckError(
            f"{type(model).__name__} does not take {what}: {first_line(error)}.",
            "Check it on images as it was made for; a network in another precision is checked as model.float().",
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise CheckError(f"{type(model).__name__} is not a classifier: it does not give one row of logits an image.")
    if logits.shape[1] <= int(split.labels.max()):
        raise CheckError(
            f"The network tells {logits.shape[1]} classes apart, the data have labels up to {int(split.labels.max())}.",
            "Check it on the data it was made for.",
        )
    if classes is not None and logits.shape[1] != classes:
        raise CheckError(
            f"The network tells {logits.shape[1]} classes apart, the data have {classes}.",
            "Check it on the data it was made for.",
        )
    return logits.shape[1]


def digest_of_images(split: Split) -> str:
    """A short hash of a split's pixels and labels."""
    digest = hashlib.sha256(split.labels.numpy().tobytes())
    for x, _ in split.batches(64):
        digest.update(x.numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_of_network(network: nn.Module) -> str:
    """A short hash of a network's class and tensors."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
