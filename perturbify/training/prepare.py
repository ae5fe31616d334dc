"""From a network and a dataset to a perturbed network that fits it, or one clear error before any long work."""

from __future__ import annotations

import logging

import torch
from torch import nn

from perturbify.channels import channels
from perturbify.data import Data
from perturbify.errors import MethodError, ModelError, TrainingError
from perturbify.methods import Method
from perturbify.methods.wrapping import for_method, wrap
from perturbify.normalize import Normalize
from perturbify.settings import Recipe
from perturbify.surgery.config import relative_start
from perturbify.surgery.noisy import Perturbed
from perturbify.text import times
from perturbify.zoo.pixels import Given, Statistics, decide

_LOG = logging.getLogger(__name__)


def prepare(model: nn.Module, recipe: Recipe, data: Data, method: Method, normalize: Given = None) -> Perturbed:
    """Wraps a network for a run, unless it is already wrapped, and checks that it fits data and method.

    Args:
        model: A plain network, which gets noise and a normalisation layer, or a perturbed one, used as it is.
        recipe: Where noise goes and θ's initial value.
        data: Determines the size of the images and the classes.
        method: Determines whether there is noise at all.
        normalize: How pixels reach a plain network, as for :func:`perturbify.finetune`.

    Raises:
        SurgeryError: The network cannot be wrapped.
        ModelError: The network does not accept the images.
        MethodError: A wrapped network does not fit the method.
        TrainingError: It does not fit the images or the classes.
    """
    _check_dtype(model)
    if isinstance(model, Perturbed):
        network = _for_method(model, method.name)
        _check_size(network, data)
    else:
        measured = relative_start(recipe.perturb.theta_init) is not None
        order = torch.arange(min(recipe.train.batch_size if measured else 2, len(data.train)))
        images, _ = next(data.train.batches(len(order), order=order))
        given = normalize or _of_recipe(recipe)
        decided = decide(model, Statistics(data.name, data.mean, data.std), given, channels=data.input_size[0])
        if decided.guess:
            _LOG.warning("%s; say it with finetune(normalize=…)", decided)
        try:
            network = wrap(
                model,
                recipe.perturb if method.noisy else None,
                method=method.name,
                example_input=images,
                normalize=decided.layer,
            )
        except ModelError as error:
            wanted, has = channels(model), data.input_size[0]
            hint = "set data.image_size to resize them."
            if wanted not in (None, has):
                hint = f"its own have {wanted} in place of {has} channels: build it for {has}, or give such images."
            raise ModelError(
                error.message, f"The images of {data.name} are {times(data.input_size)}; {hint}"
            ) from error
    _check_head(network, data)
    return network


def _for_method(model: Perturbed, method: str) -> Perturbed:
    try:
        return for_method(model, method)
    except MethodError as error:
        own = model.surgery.method
        if own == method:
            raise
        raise MethodError(
            f"The network was wrapped for the method {own}, and the recipe's is {method}. {error.message}",
            f"Train it with its own method (--method {own}), or start from the plain network.",
        ) from error


def _check_dtype(model: nn.Module) -> None:
    other = next((p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32), None)
    if other is not None:
        raise TrainingError(f"The weights are {other}; training takes float32.", "Call model.float() first.")


def _of_recipe(recipe: Recipe) -> Normalize | None:
    mean, std = recipe.data.mean, recipe.data.std
    return None if mean is None or std is None else Normalize(mean, std)


def _check_size(network: Perturbed, data: Data) -> None:
    plan = network.surgery.plan
    if plan.config is not None and plan.config.fixes_size and plan.input_shapes[0] != data.input_size:
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
            f"{type(network).__name__} is not a classifier: it does not return one row of logits per image."
        )
    if logits.shape[1] != len(data.classes):
        raise TrainingError(
            f"The model's head has {logits.shape[1]} classes, {data.name} has {len(data.classes)}.",
            f"Build it with num_classes={len(data.classes)}, or choose the data it was made for.",
        )
