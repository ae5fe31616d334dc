"""Options that several commands share, and the values they take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from perturbify import numbers
from perturbify.cli.console import WIDE

Command = TypeVar("Command", bound=Callable[..., Any])


class Count(click.ParamType):
    """A whole number between a sensible minimum and maximum."""

    name = "integer"

    def __init__(self, most: int, least: int = 1) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads it, fast even for a very long text."""
        count = numbers.whole(value) if isinstance(value, str) else int(value)
        if count is None:
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        if not self.least <= count <= self.most:
            self.fail(f"{count} is not between {self.least} and {self.most:,}.", param, ctx)
        return count


class Number(click.ParamType):
    """A finite number."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads it, fast even for a very long text."""
        number = numbers.decimal(value) if isinstance(value, str) else float(value)
        if number is None:
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


IMAGES = Count(numbers.MOST_IMAGES)
STEPS = Count(numbers.MOST_STEPS)
SEED = Count(numbers.MOST_SEED, least=0)
SIDE = Count(numbers.MOST_SIDE)
CLASSES = Count(numbers.MOST_CLASSES)
MOST_RUNS = 1_000
"""The most runs."""


def several_seeds(_ctx: click.Context, _option: click.Parameter, given: str | None) -> int | tuple[int, ...] | None:
    """Reads a number of runs, or comma-separated seeds."""
    if given is None:
        return None
    found: list[int] = []
    for part in filter(None, (part.strip() for part in given.split(","))):
        number = numbers.whole(part)
        if number is None:
            raise click.BadParameter(
                f"{part!r} is not a whole number: use a number of runs, such as 3, or seeds, such as 0,4,7"
            )
        if not 0 <= number <= numbers.MOST_SEED:
            raise click.BadParameter(f"the seed {number} is not between 0 and {numbers.MOST_SEED:,}")
        if number in found:
            raise click.BadParameter(f"the seed {number} occurs twice and would train the same network again")
        found.append(number)
    if "," not in given and found:
        if not 1 <= found[0] <= MOST_RUNS:
            raise click.BadParameter(
                f"the number of runs, {found[0]}, is not between 1 and {MOST_RUNS:,}; for one seed, use {found[0]},"
            )
        return found[0]
    if not found:
        raise click.BadParameter("it names no seed: use a number of runs, such as 3, or seeds, such as 0,4,7")
    return tuple(found)


def seeds_from(asked: int | tuple[int, ...], first: int) -> tuple[int, ...]:
    """The seeds; for a number of runs, counted from the recipe's."""
    return tuple(range(first, first + asked)) if isinstance(asked, int) else asked


def output_options(command: Command) -> Command:
    """``--json`` and ``-q``."""
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)
    return click.option("-q", "--quiet", is_flag=True, help="No log and no progress.")(command)


weights_key_option = click.option(
    "--weights-key",
    metavar="KEY",
    help="Key of the weights in the file, such as state_dict; default: where they fit, an average first.",
)


def wide_option(command: Command) -> Command:
    """``--wide``, which the console reads from the context."""

    def keep(context: click.Context, _option: click.Parameter, wide: bool) -> None:
        context.meta[WIDE] = wide

    return click.option(
        "--wide", is_flag=True, expose_value=False, callback=keep, help="Show all columns of tables, however wide."
    )(command)


def model_options(command: Command) -> Command:
    """Options for building a named model and for its weights."""
    for option in (
        click.option("--trust-factory", is_flag=True, help="Run the factory that a FILE names, if you trust it."),
        click.option("--reset-head", is_flag=True, help="With --weights: keep a head of another size fresh."),
        weights_key_option,
        click.option(
            "--weights",
            type=click.Path(),
            metavar="FILE",
            help="Weights: .safetensors, or .pth, .ckpt, … (weights_only).",
        ),
        click.option("--pretrained", is_flag=True, help="Download the library's pretrained weights."),
        click.option(
            "--model-arg",
            "model_args",
            multiple=True,
            metavar="KEY=VALUE",
            callback=key_values,
            help="Argument for the model's builder, such as width=2.",
        ),
    ):
        command = option(command)
    return command


class_order = click.option(
    "--class-order",
    metavar="sorted|natural|FILE",
    help="Order of a folder's classes: by name, as in timm, or as in a FILE with one name per line.",
)


def data_options(command: Command) -> Command:
    """Options for the images of ``--data``: folder, size, and class order."""
    for option in (
        class_order,
        click.option("--download", is_flag=True, help="Download the dataset if it is missing."),
        click.option("--image-size", type=SIDE, help="Fit images to a square of this many pixels a side."),
        click.option("--data-root", type=click.Path(), help="Folder of a named dataset."),
    ):
        command = option(command)
    return command


def attack_options(command: Command) -> Command:
    """Options for a check; those not given are None."""
    said = "; default: what FILE's recipe says, else "
    for option in (
        click.option("--seed", type=SEED, help="Seed of every random number in the check; default: 0."),
        click.option("--batch-size", type=IMAGES, help="Images per batch; default: 128."),
        click.option(
            "--noise",
            type=click.Choice(["fresh", "shared"]),
            help="Draws for each image (fresh), or shared by a batch; default: fresh.",
        ),
        click.option("--draws", type=STEPS, help="Fresh draws that score each image; default: 20."),
        click.option("--eot-draws", type=STEPS, help="Draws averaged in each step of EOT-PGD."),
        click.option("--long-steps", type=STEPS, help="Steps of the longest PGD."),
        click.option(
            "--step-size",
            callback=pixels,
            help=f"PGD's step, in pixels of [0, 1]{said}0.01 at ε = 8/255, in proportion.",
        ),
        click.option("--steps", type=STEPS, help=f"Steps of PGD{said}7."),
        click.option("--epsilon", callback=pixels, help=f"l∞ radius, in pixels of [0, 1]{said}8/255."),
        click.option("--few", type=IMAGES, help="Maximum number of images for the slow attacks."),
        click.option("--images", type=IMAGES, help="Maximum number of test images."),
        click.option(
            "--attacks",
            callback=names,
            metavar="LIST",
            help="Attacks by name, such as fgsm,pgd,margin,square; a wrong name lists them all.",
        ),
        click.option("--preset", type=click.Choice(["quick", "standard", "paper"]), default="quick", show_default=True),
    ):
        command = option(command)
    return command


def names(_ctx: click.Context, _option: click.Parameter, given: str | None) -> tuple[str, ...] | None:
    """Reads a comma-separated list of names."""
    return None if given is None else tuple(name.strip() for name in given.split(",") if name.strip())


def key_values(_ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Reads ``key=value``; a value is JSON if it parses, else text."""
    pairs = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{pair!r} is not of the form key=value")
        try:
            pairs[key] = json.loads(value)
        except (ValueError, RecursionError):
            pairs[key] = value
    return pairs


def pixels(_ctx: click.Context, _option: click.Parameter, given: str | None) -> float | None:
    """Reads a size in pixels of [0, 1]: a number, or a fraction such as 8/255."""
    if given is None:
        return None
    value = numbers.fraction(given)
    if value is None:
        raise click.BadParameter(f"{given!r} is not a number or a fraction such as 8/255")
    if not 0 < value <= 1:
        raise click.BadParameter(f"{given} is outside (0, 1]: pixels lie in [0, 1]")
    return value


def several_pixels(context: click.Context, option: click.Parameter, given: str | None) -> tuple[float, ...] | None:
    """Reads comma-separated sizes in pixels of [0, 1], as :func:`pixels` reads one."""
    listed = names(context, option, given)
    if listed is None:
        return None
    if not listed:
        raise click.BadParameter("it names no ε")
    sizes = [pixels(context, option, size) for size in listed]
    return tuple(dict.fromkeys(size for size in sizes if size is not None))


def start(_ctx: click.Context, _option: click.Parameter, given: str | None) -> float | str | None:
    """Reads θ's initial value: a number, or a form such as 0.1x, which is parsed later."""
    if given is None or given.endswith("x"):
        return given
    value = numbers.decimal(given)
    if value is None:
        raise click.BadParameter(f"{given!r} is neither a number nor of the form 0.1x")
    return value


def size_of_input(_ctx: click.Context, _option: click.Parameter, given: str | None) -> tuple[int, ...] | None:
    """Reads channels × height × width, such as 3x224x224; with frames before the height, a clip."""
    if given is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}([x×,][1-9][0-9]{0,8}){2,3}", given):
        raise click.BadParameter(f"{given!r} is not of the form 3x224x224 (channels, height, width)")
    size = tuple(int(n) for n in re.split("[x×,]", given))
    if max(size) > numbers.MOST_SIDE or math.prod(size) > numbers.MOST_VALUES:
        raise click.BadParameter(
            f"{given} is too large: at most {numbers.MOST_SIDE:,} a side and {numbers.MOST_VALUES:,} numbers in all"
        )
    return size
