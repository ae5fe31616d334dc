"""Normalisation of a network that does not state it: options, and the line that says what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from perturbify import numbers
from perturbify.cli.console import Console
from perturbify.cli.options import Command

if TYPE_CHECKING:
    from torch import nn

    from perturbify.data import Data
    from perturbify.zoo.pixels import Given, Normalization

OPTIONS = ("mean", "std", "no_normalize")
_IMAGES, _AT_ONCE = 1000, 50
_WAYS = "--mean M,M,M --std S,S,S, or --no-normalize"


def _numbers(_ctx: click.Context, option: click.Parameter, given: str | None) -> tuple[float, ...] | None:
    """Reads comma-separated numbers, one a channel."""
    if given is None:
        return None
    values = [numbers.fraction(part) for part in given.split(",")[:1000]]
    found = tuple(value for value in values if value is not None)
    if len(found) < len(values):
        raise click.BadParameter(f"{given!r} is not a list of numbers such as 0.485,0.456,0.406")
    if any(not 0 <= value <= 1 for value in found):
        scaled = "; divide by 255" if all(0 <= value <= 255 for value in found) else ""
        raise click.BadParameter(f"{given} is outside [0, 1], the range of pixels{scaled}")
    if option.name == "std" and not all(found):
        raise click.BadParameter(f"{given} has a zero, but images are divided by it")
    return found


def normalization_options(command: Command) -> Command:
    """``--mean``, ``--std`` and ``--no-normalize``, for networks without a perturbify file."""
    for option in (
        click.option(
            "--no-normalize", is_flag=True, help="The network takes pixels in [0, 1] as they are: it normalises inside."
        ),
        click.option("--std", callback=_numbers, metavar="S,S,S", help="Goes with --mean; one number a channel."),
        click.option(
            "--mean",
            callback=_numbers,
            metavar="M,M,M",
            help="Normalisation of images in training, for pixels in [0, 1].",
        ),
    ):
        command = option(command)
    return command


def asked(options: dict[str, Any]) -> Given:
    """The choice made by the options.

    Raises:
        UsageError: They contradict each other.
    """
    from perturbify.normalize import Normalize

    mean, std, none = (options[name] for name in OPTIONS)
    if none and (mean or std):
        raise click.UsageError("--no-normalize and --mean contradict each other: use one.")
    if (mean is None) != (std is None):
        raise click.UsageError("--mean and --std go together.")
    if mean is None:
        return "inside" if none else None
    if len(mean) != len(std):
        raise click.UsageError(f"--mean has {len(mean)} numbers and --std {len(std)}: use one a channel.")
    return Normalize(mean, std)


def refuse(options: dict[str, Any], file: str) -> None:
    """Makes sure that no normalisation is given for a FILE.

    Raises:
        UsageError: One is.
    """
    if any(options[name] for name in OPTIONS):
        raise click.UsageError(
            f"{file} is used as it is, with its own normalisation inside; --mean, --std and --no-normalize are for "
            "bare weights, so convert those again."
        )


def settle(
    console: Console,
    network: nn.Module,
    data: Data | None,
    given: Given,
    *,
    channels: int | None = None,
    name: str = "",
) -> Normalization:
    """Decides how a plain network's pixels are normalised, and prints it; compares a guess with the usual constants.

    Args:
        console: Where to print it.
        network: A plain network.
        data: The images, if any.
        given: The choice made by the options.
        channels: Channels of an image, if there are no data.
        name: The network's name, if there are several.
    """
    from perturbify.zoo.pixels import Statistics, decide

    of_data = None if data is None else Statistics(data.name, data.mean, data.std)
    decided = decide(network, of_data, given, channels=data.input_size[0] if data else channels)
    say(console, network, decided, data, name=name)
    return decided


def say(console: Console, network: nn.Module, decided: Normalization, data: Data | None, *, name: str = "") -> None:
    """Prints the line, and a warning with a guess."""
    start = f"{name}: " if name else ""
    console.log(f"{start}{decided}")
    if decided.guess:
        console.log(f"warning: {start}{_trial(network, decided, data)}")


def _trial(network: nn.Module, decided: Normalization, data: Data | None) -> str:
    import torch

    from perturbify.zoo.pixels import Statistics, tried

    unknown = f"this normalisation is a guess; set the one used in training: {_WAYS}"
    if data is None:
        return unknown
    few = torch.arange(min(_IMAGES, len(data.test)))  # time may run out, so the classes take turns
    batches = data.test.interleaved().subset(few).batches(_AT_ONCE)
    found = tried(network, decided, Statistics(data.name, data.mean, data.std), batches)
    if found is None:
        return unknown
    if found.better is None:
        seen = (
            f"with it, {found.right} of {found.images} test images are right, and no usual choice does clearly better"
        )
        return f"{unknown} ({seen})"
    better, right = found.better
    return (
        f"this normalisation is a guess, and probably wrong: with {_option(better)} the network is right on {right} of "
        f"{found.images} test images, with this guess on {found.right}"
    )


def _option(decided: Normalization) -> str:
    if decided.layer is None:
        return "--no-normalize"
    mean, std = (",".join(f"{v:.4g}" for v in part) for part in decided.layer.constants)
    return f"--mean {mean} --std {std}"
