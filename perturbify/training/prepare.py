"""From a network and a dataset to a perturbed network that fits it, or one clear error before any long work."""

from __future__ import annotations

import torch
from torch import nn

from perturbify import zoo
from perturbify.data import Data
from perturbify.errors import ModelError, TrainingError
from perturbify.methods import Method
from perturbify.normalize import Normalize
from perturbify.settings import Recipe
from perturbify.surgery.perturbed import Perturbed
from perturbify.surgery.wrap import wrap
from perturbify.text import times


def prepare(model: nn.Module, recipe: Recipe, data: Data, method: Method) -> Perturbed:
    """Wraps a network for a run, unless it is wrapped already, and checks that it fits data and method.

    Args:
        model: A plain network, which gets noise and a normalisation layer, or a perturbed one, used as it is.
        recipe: Where noise goes and what θ starts from.
        data: Gives the size of the images and the classes.
        method: Whether there is noise at all.

    Raises:
        SurgeryError: The network cannot be wrapped.
        ModelError: The network does not take the images.
        TrainingError: A wrapped network does not fit the method, the images, or the classes.
    """
    _check_dtype(model)
    if isinstance(model, Perturbed):
        network = model
        _check_wrapped(network, data, method)
    else:
        images = torch.rand(2, *data.input_size, generator=torch.Generator().manual_seed(0))
        normalize = _of_recipe(recipe) or normalization(model, data)
        try:
            network = wrap(model, recipe.perturb if method.noisy else None, example_input=images, normalize=normalize)
        except ModelError as error:
            raise ModelError(
                error.message,
                f"The images of {data.name} are {times(data.input_size)}; data.image_size fits them to another size.",
            ) from error
    _check_head(network, data)
    return network


def _check_dtype(model: nn.Module) -> None:
    other = next((p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32), None)
    if other is not None:
        raise TrainingError(f"The weights are {other}; training takes float32.", "Call model.float() first.")


def normalization(model: nn.Module, data: Data) -> Normalize:
    """The layer a plain network gets: as its weights were trained with, where they say so, else as the data are."""
    spec = zoo.describe(model)
    learned = zoo.normalization(model) if spec is not None and spec.weights != "fresh" else None
    return learned or Normalize(data.mean, data.std)


def _of_recipe(recipe: Recipe) -> Normalize | None:
    mean, std = recipe.data.mean, recipe.data.std
    return None if mean is None or std is None else Normalize(mean, std)


def _check_wrapped(network: Perturbed, data: Data, method: Method) -> None:
    plan = network.surgery.plan
    if method.noisy != bool(plan.sites):
        has = f"has {len(plan.sites)} noise sites" if plan.sites else "has no noise"
        raise TrainingError(
            f"The method {method.name} {'needs noise' if method.noisy else 'has no noise'}, this network {has}.",
            "Start from the plain network, or choose another method.",
        )
    if plan.config is not None and plan.config.grain == "element" and plan.input_shapes[0] != data.input_size:
        raise TrainingError(
            f"θ is per element and was made for inputs of {times(plan.input_shapes[0])}; {data.name} has images of "
            f"{times(data.input_size)}.",
            "Convert with --input-size "
            + "x".join(map(str, data.input_size))
            + ', set data.image_size, or convert with grain="channel".',
        )


def _check_head(network: Perturbed, data: Data) -> None:
    was = network.training
    device = next(network.parameters()).device
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        logits = network.eval()(torch.rand(2, *data.input_size, device=device))
    network.train(was)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise TrainingError(
            f"{network.surgery.source_class.__name__} is not a classifier: it does not give one row of logits an image."
        )
    if logits.shape[1] != len(data.classes):
        raise TrainingError(
            f"The model's head has {logits.shape[1]} classes, {data.name} has {len(data.classes)}.",
            f"Build it with num_classes={len(data.classes)}, or choose the data it was made for.",
        )
