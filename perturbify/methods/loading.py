"""From a file to its network, checked against the defence that the file names."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from perturbify import checkpoint
from perturbify.arguments import check_network, check_path
from perturbify.methods.wrapping import for_file
from perturbify.surgery.noisy import Perturbed


def load(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    device: torch.device | str = "cpu",
    trust_factory: bool = False,
) -> Perturbed:
    """Loads a network: with its noise on, in eval mode.

    The network is built and wrapped anew, so what is loaded has been verified on this machine and with these
    library versions.

    Args:
        path: A file that :func:`perturbify.save` wrote.
        model: The source network, if the file does not say how to build it (networks made outside the zoo);
            it is left as it is.
        device: The device to load it to.
        trust_factory: Whether a user's factory that the file names (``package.module:factory``) may be run.
            Such a file runs code of its writer's choosing; those with timm, torchvision and our own models never do.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, newer, does not fit the network, or names a factory
            that is not trusted.
        MethodError: Its defence is not registered here, or does not fit the network.
        ModelError, SurgeryError: The network cannot be built or wrapped here.
    """
    check_path(path, "load", "a file", "Give that of what perturbify.save(network, path) wrote.")
    if model is not None:
        check_network(model)
    path = Path(path)
    header, contents = checkpoint.read(path)
    if not contents.sealed:
        warnings.warn(
            f"{path} is not sealed: an earlier version wrote it, so later changes cannot be detected.",
            stacklevel=2,
        )
    restored = checkpoint.restore(header, contents, path, model, for_method=for_file, trust_factory=trust_factory)
    if not restored.ran:
        warnings.warn(
            f"{path} was loaded without running its network: its feature maps are far larger than its weights. Its "
            "equality with its source, except for the noise, was verified when it was wrapped.",
            stacklevel=2,
        )
    return restored.network.to(device)
