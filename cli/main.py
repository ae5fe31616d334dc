"""The command ``perturbify``: finds the subcommand, and turns errors into one line and an exit status.

Exit status: 0 fine, 1 failed, 2 used wrongly, 3 a robustness check failed, 4 it established nothing, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

import click

from perturbify import __version__
from perturbify.errors import PerturbifyError, RecipeError, nearest

COMMANDS = ("convert", "finetune", "plot", "check", "certify", "compare", "inspect", "recipes", "reproduce", "census")


class _LazyGroup(click.Group):
    """Imports a command's file when it is asked for; none of them imports torch before it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"perturbify.cli.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r}. {nearest(args[0], COMMANDS)}".strip(), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="perturbify")
def cli() -> None:
    """Put learnable noise behind every convolution of a network you own, train it, and check it honestly.

    \b
      perturbify convert resnet18                 a noisy resnet18, in one file
      perturbify finetune --recipe digits         train it, on images that come along
      perturbify check model.safetensors          how robust is it?

    Results go to stdout, everything else to stderr. Exit status: 0 fine, 1 failed, 2 used wrongly, 3 a robustness check
    failed, 4 it could not establish its figures.
    """


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"Warning: {message}", err=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding lacks, such as θ, is no reason to fail once the work is done.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    debug = os.environ.get("PERTURBIFY_DEBUG") == "1"
    try:
        return cli.main(args=arguments, prog_name="perturbify", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except PerturbifyError as error:
        if debug:
            raise
        click.echo(f"Error: {error.message}", err=True)
        if error.hint:
            click.echo(f"Hint: {error.hint}", err=True)
        return 2 if isinstance(error, RecipeError) else 1
    except Exception as error:
        if debug:
            raise
        click.echo(f"Error: {type(error).__name__}: {' '.join(str(error).split())[:500]}", err=True)
        click.echo("Hint: This looks like a mistake in perturbify; PERTURBIFY_DEBUG=1 shows the traceback.", err=True)
        return 1
