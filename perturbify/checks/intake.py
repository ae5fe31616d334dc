"""What is looked at before a check begins: do network and images fit, and which ones are they?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from perturbify import data as datasets
from perturbify.attacks import frozen_eval
from perturbify.data import Data, Split
from perturbify.data.split import FloatSplit, MemorySplit
from perturbify.errors import CheckError, ModelError, PerturbifyError
from perturbify.prediction import logits_of, read_logits
from perturbify.text import first_line, times

MOST = 10_000
"""Images at most that are taken from a data set or loader of the user's, which may be endless."""


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
        raise CheckError(
            f"{type(model).__name__} does not take {what}: {first_line(error)}.",
            "Check it on images as it was made for; a network in another precision is checked as model.float().",
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


def images_of(given: Any, most: int | None = None) -> tuple[Split, str, tuple[str, ...] | None]:
    """Test images in any form.

    Args:
        given: A :class:`~perturbify.data.Data` or its split, the name of a data set or folder, a pair of images (N, C,
            H, W) in [0, 1] and labels, a data set of pairs, or a loader of batches of pairs.
        most: How many are wanted of a data set or loader; None takes :data:`MOST`.

    Returns:
        The images, what they are called, and the names of their classes, if they have any.

    Raises:
        CheckError: There are none, or they are not pixels in [0, 1] with labels.
        DataError: There are no images of that name.
    """
    if isinstance(given, str):
        given = datasets.load(given)
    if isinstance(given, Data):
        split, name, classes = given.test, given.name, given.classes
    elif isinstance(given, Split):
        split, name, classes = given, "own images", None
    else:
        x, y = _pairs(given, most or MOST)
        split, name, classes = _split(x, y), "own images", None
    if not len(split):
        raise CheckError(f"There is nothing to check on: {name} has no test images.")
    return split, name, classes


def _pairs(given: Any, most: int) -> tuple[Tensor, Tensor]:
    if isinstance(given, tuple | list) and len(given) == 2 and all(hasattr(part, "shape") for part in given):
        return torch.as_tensor(given[0]), torch.as_tensor(given[1])
    if not isinstance(given, Iterable | Dataset | DataLoader):
        raise CheckError(
            f"There are no images to be had from {type(given).__name__}.",
            "Give a name, a Data, a Split, a pair (images, labels), a data set of pairs, or a loader of their batches.",
        )
    found: list[tuple[Tensor, Tensor]] = []
    for pair in _in_order(given, most):
        try:
            x, y = torch.as_tensor(pair[0]), torch.as_tensor(pair[1])
        except (TypeError, ValueError, KeyError, RuntimeError, IndexError) as error:
            raise CheckError(
                f"The images come as {type(pair).__name__}, which is no pair of tensors, an image and a label.",
                "Give tensors: a data set wants a transform such as torchvision.transforms.ToTensor().",
            ) from error
        found.append((x, y.reshape(-1)) if x.dim() == 4 else (x[None], y.reshape(-1)))
        if sum(len(part) for part, _ in found) >= most:
            break
    if not found:
        raise CheckError("There is nothing to check on: there are no images.")
    try:
        return torch.cat([x for x, _ in found])[:most], torch.cat([y for _, y in found])[:most]
    except RuntimeError as error:
        raise CheckError(f"The images do not go together: {first_line(error)}.", "Make them of one size.") from error


def _in_order(given: Any, most: int) -> Iterable[Any]:
    """The items of a data set by their numbers; those of whatever else can be run through as they come."""
    if isinstance(given, Dataset) and hasattr(given, "__len__"):
        return (given[i] for i in range(min(len(given), most)))
    return iter(given)


def _split(x: Tensor, y: Tensor) -> Split:
    if x.dim() != 4 or len(x) != len(y) or y.dim() != 1 or y.is_floating_point():
        raise CheckError(
            f"Images of shape {tuple(x.shape)} with labels of shape {tuple(y.shape)} and type {y.dtype} do not go.",
            "Give images (N, C, H, W) and whole numbers (N,).",
        )
    x, y = x.detach().cpu(), y.detach().cpu().long()
    if not len(x):
        raise CheckError("There is nothing to check on: there are no images.")
    if int(y.min()) < 0:
        raise CheckError(f"There is a label of {int(y.min())}.", "Number the classes from 0.")
    if x.dtype == torch.uint8:
        return MemorySplit(x, y)
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise CheckError(
            f"The pixels reach from {low:.3g} to {high:.3g}, and a check works on [0, 1].",
            "Leave the normalisation to the network: perturbify.Normalize(mean, std) before it.",
        )
    return FloatSplit(x, y)


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
