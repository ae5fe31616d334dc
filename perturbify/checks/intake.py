"""What is looked at before a check begins: do network and images fit, and which ones are they?"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from perturbify.attacks import frozen_eval
from perturbify.channels import channels
from perturbify.data import Split
from perturbify.errors import CheckError, ModelError, PerturbifyError
from perturbify.prediction import logits_of, read_logits
from perturbify.text import first_line, times


class Logits(nn.Module):
    """A classifier that wraps its logits: transformers' outputs, dicts, tuples.

    Args:
        model: The network, whose modes, parts and noise stay its own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Gives logits, shape (N, classes)."""
        found = logits_of(self.model(images))
        assert found is not None, "looked at before"
        return found


def classifier(model: nn.Module, images: Tensor) -> nn.Module:
    """A network as a check takes one: images to logits.

    Args:
        model: Any classifier; its answer may be logits, something with ``.logits``, or a dict or tuple with them.
        images: Some images that it takes, shape (N, C, H, W).

    Returns:
        The network itself where it gives logits, else a :class:`Logits` around it.

    Raises:
        CheckError: It does not take the images, or is no classifier.
    """
    try:
        with frozen_eval(model), torch.no_grad():
            answer = model(images)
    except PerturbifyError:
        raise
    except Exception as error:
        what = f"{times(images.shape[1:])} images in {str(images.dtype).removeprefix('torch.')}"
        wanted = channels(model)
        has = images.shape[1]
        raise CheckError(
            f"{type(model).__name__} does not take {what}: {first_line(error)}.",
            f"Its own images have {wanted} in place of {has} channels: build it for {has}, or give such images."
            if wanted not in (None, has)
            else "Check it on images as it was made for; a network in another precision is checked as model.float().",
        ) from error
    try:
        read_logits(answer, type(model).__name__, len(images))
    except ModelError as error:
        raise CheckError(error.message, error.hint) from error
    return model if isinstance(answer, Tensor) else Logits(model)


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
    with frozen_eval(model), torch.no_grad():
        logits = classifier(model, images)(images)
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
    return int(logits.shape[1])


def digest_of_images(split: Split) -> str:
    """A short hash of a split's pixels and labels."""
    digest = hashlib.sha256(split.labels.numpy().tobytes())
    for x, _ in split.batches(64):
        digest.update(x.numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_of_network(network: nn.Module) -> str:
    """A short hash of what a network says of itself, and of its tensors."""
    digest = hashlib.sha256(repr(network).encode())
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
