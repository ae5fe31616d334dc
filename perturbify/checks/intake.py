"""What is looked at before a check begins: do network and images fit, and which ones are they?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.attacks import attacked
from perturbify.channels import channels
from perturbify.data import Split
from perturbify.errors import CheckError, PerturbifyError
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
        with attacked(model), torch.no_grad():
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
    found = logits_of(answer)
    name = type(model).__name__
    if found is None:
        raise CheckError(
            f"{name} answers with {type(answer).__name__}, in which no logits are to be found.",
            "Check a module whose forward gives logits of shape (images, classes).",
        )
    if found.dim() == 4:
        raise CheckError(
            f"{name} gives a map of {times(found.shape[1:])} for each image: it segments, and checks are for "
            "classifiers of whole images.",
            "Check a module whose forward gives logits of shape (images, classes).",
        )
    if found.dim() != 2 or len(found) != len(images) or not found.is_floating_point():
        raise CheckError(f"{name} is not a classifier: it does not give one row of logits an image.")
    if found.shape[1] == 1:
        raise CheckError(
            f"{name} gives a single number for each image, and a check compares the logits of classes.",
            "Check a module that gives two logits: torch.cat([-z, z], 1) / 2 decides as a sigmoid of z does.",
        )
    return model if isinstance(answer, Tensor) else Logits(model)


def logits_of(answer: Any) -> Tensor | None:
    """The logits in what a network answers with; None where there are none."""
    if isinstance(answer, Tensor):
        return answer
    held = getattr(answer, "logits", None)
    if held is None and isinstance(answer, Mapping):
        held = next((answer[k] for k in ("logits", "out", "output", "prediction") if k in answer), None)
    if held is None and isinstance(answer, tuple | list) and answer:
        held = answer[0]
    return held if isinstance(held, Tensor) else None


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
    with attacked(model), torch.no_grad():
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
