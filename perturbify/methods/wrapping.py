"""Wraps a network for a defence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import nn

from perturbify.arguments import check_type, described
from perturbify.errors import WrongType
from perturbify.methods.registry import DEFAULT, NONE, get, names, of_file
from perturbify.normalize import Normalize
from perturbify.surgery import wrap as surgery
from perturbify.surgery.config import PerturbConfig, check_config
from perturbify.surgery.noisy import Perturbed
from perturbify.surgery.plan import Plan

OF_METHOD: Literal["of the method"] = "of the method"
"""Stands for the method's own noise."""


def plan(
    model: nn.Module,
    config: PerturbConfig | Literal["of the method"] | None = OF_METHOD,
    *,
    method: str = DEFAULT,
    example_input: Any = None,
) -> Plan:
    """Returns what :func:`wrap` would do to a network, and changes nothing.

    Args and errors as for :func:`wrap`.

    Returns:
        The sites, and what is skipped, with the reason.
    """
    return surgery.plan(model, _settings(method, config), example_input=example_input)


def wrap(
    model: nn.Module,
    config: PerturbConfig | Literal["of the method"] | None = OF_METHOD,
    *,
    method: str = DEFAULT,
    example_input: Any = None,
    normalize: Normalize | None = None,
    inplace: bool = False,
    verify: bool = True,
) -> Perturbed:
    """Puts a defence's noise into a network: by default Learn2Perturb's, learnable, behind every convolution call.

    The result is an instance of the source's class, with the same parts, methods and state-dict keys. Noise is in the
    modules whose own code convolves, and nowhere above them. Before it is returned, the finished network with its noise
    off must equal the source bit for bit, buffers included, in train and in eval mode (only in eval mode if the source
    accepts the example input in no other; the plan's ``modes`` say so).

    Args:
        model: The network. It is left as it was, unless ``inplace``.
        config: The noise, of the method's kind; by default the method's own. None adds no noise, for a baseline that is
            otherwise the same.
        method: The defence, as :mod:`perturbify.methods` knows it.
        example_input: A tensor with a batch dimension, a tuple of positional or a dict of keyword inputs. Needed if
            the network does not declare its input size (models of timm and transformers do). Give real images if
            ``theta_init`` is measured on them (``"0.1x"``).
        normalize: A normalisation layer to run first, so that the network takes pixels in [0, 1].
        inplace: Change the network itself rather than a copy, and return it.
        verify: Whether to compare the result with the source; without that, the network is only observed.

    Returns:
        The perturbed network, in the mode of ``model``, with the noise on.

    Raises:
        MethodError: There is no such method, or the noise or the network does not fit it.
        NoConvolutions: There is nothing to put noise on.
        AlreadyWrapped: The network already has noise modules.
        SurgeryError: The settings ask for something that this network does not have.
        TraceError: A forward does more after a convolution, and torch.fx cannot trace it.
        ParityError: With the noise off, the result differs from the source.
        ModelError: The network fails on the example input, or no input size is known.
    """
    settings = _settings(method, config)
    network = surgery.wrap(
        model, settings, example_input=example_input, normalize=normalize, inplace=inplace, verify=verify
    )
    chosen = method if (settings is None) == (get(method).perturb is None) else NONE
    get(chosen).start_(network, normalize)
    return for_method(network, chosen)


def for_method(network: Perturbed, method: str) -> Perturbed:
    """Records on a network the defence it was wrapped for, and checks that they fit.

    Raises:
        MethodError: They do not.
    """
    chosen = get(method)
    chosen.check_config(network.surgery.plan.config)
    network.surgery = replace(network.surgery, method=method)
    chosen.check(network)
    return network


def for_file(network: Perturbed, method: str | None) -> Perturbed:
    """The same for a network that was built from a file, which may name no defence.

    Raises:
        MethodError: They do not fit, or the defence is not registered here.
    """
    return for_method(network, of_file(method, noisy=network.surgery.plan.config is not None))


def _settings(method: str, config: PerturbConfig | Literal["of the method"] | None) -> PerturbConfig | None:
    check_type(method, str, "A method is given by its name", "Give what its class has as name.")
    chosen = get(method)
    if isinstance(config, str) and config == OF_METHOD:
        return chosen.perturb
    if isinstance(config, str) and config in names():
        raise WrongType(f"The noise is a PerturbConfig, not {described(config)}.", f'Give method="{config}".')
    check_config(config)
    assert not isinstance(config, str)
    if config is not None:
        chosen.check_config(config)
    return config
