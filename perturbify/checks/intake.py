"""Before a check: do network and images fit, and which ones are they?"""

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
    """Unwraps the logits of a classifier that returns them inside something: transformers' outputs, dicts, tuples.

    Args:
        model: The network; it keeps its modes, parts and noise.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, shape (N, classes)."""
        found = logits_of(self.model(images))
        assert found is not None, "checked before"
        return found


def classifier(model: nn.Module, images: Tensor) -> nn.Module:
    """A network in the form that a check needs: images to logits.

    Args:
        model: Any classifier; it may return logits, an object with ``.logits``, or a dict or tuple with them.
        images: Some images that it takes, shape (N, C, H, W).

    Returns:
        The network itself if it returns logits, else a :class:`Logits` around it.

    Raises:
        CheckError: It does not take the images, or is not a classifier.
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
            f"It needs images of {wanted} channels, not {has}: build it for {has}, or use such images."
            if wanted not in (None, has)
            else "Check it on the kind of images it was made for; a network in another precision as model.float().",
        ) from error
    try:
        read_logits(answer, type(model).__name__, len(images))
    except ModelError as error:
        raise CheckError(error.message, error.hint) from error
    return model if isinstance(answer, Tensor) else Logits(model)


def count_classes(model: nn.Module, images: Tensor, split: Split, classes: int | None) -> int:
    """Makes sure that a network classifies the images of a split; returns its number of classes.

    Args:
        model: Any network.
        images: Some of the images, shape (N, C, H, W).
        split: All of them.
        classes: Number of classes in the data, if known.

    Raises:
        CheckError: It does not take them, or has another number of classes.
    """
    with frozen_eval(model), torch.no_grad():
        logits = classifier(model, images)(images)
    if logits.shape[1] <= int(split.labels.max()):
        raise CheckError(
            f"The network has {logits.shape[1]} classes, but the data have labels up to {int(split.labels.max())}.",
            "Check it on the data it was made for.",
        )
    if classes is not None and logits.shape[1] != classes:
        raise CheckError(
            f"The network has {logits.shape[1]} classes, but the data have {classes}.",
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
    """A short hash of a network's printed form and its tensors."""
    digest = hashlib.sha256(repr(network).encode())
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
