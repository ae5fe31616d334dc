"""The command ``perturbify``: runs the subcommand, and turns errors into one line and an exit status.

Exit status: 0 success, 1 failure, 2 wrong usage, 3 a robustness check failed, 4 it established nothing, 130
interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

import click

from perturbify import __version__, escape
from perturbify.cli import interrupts
from perturbify.cli.console import say
from perturbify.errors import PerturbifyError, RecipeError, nearest

COMMANDS = (
    "convert",
    "finetune",
    "plot",
    "check",
    "certify",
    "compare",
    "inspect",
    "verify",
    "recipes",
    "reproduce",
    "census",
)


class _LazyGroup(click.Group):
    """Imports a command's file on demand; none of them imports torch before it runs."""

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
    """Put learnable noise behind every convolution of your network, train it, and check its robustness honestly.

    \b
      perturbify convert resnet18             a noisy resnet18, in one file
      perturbify finetune --recipe digits     train it, on the images included
      perturbify check model.safetensors      how robust is it?

    Results go to stdout, everything else to stderr. Exit status: 0 success, 1 failure, 2 wrong usage, 3 a robustness
    check failed, 4 it could not establish its figures.
    """


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _complain(f"Warning: {_on_one_line(message)}")


def _on_one_line(text: object) -> str:
    """Another library's message, which may have several lines, on one line."""
    return escape.terminal(" ".join(str(text).split()))


def _complain(text: str) -> None:
    """Prints an error on stderr; if that cannot be written, the exit status must do."""
    with contextlib.suppress(OSError):
        say(text, err=True)


def _show(error: click.ClickException) -> None:
    """Prints a usage error, as click would; what the user typed is escaped, too."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and later: no arguments
        _complain(error.format_message())
        return
    if context is not None:
        _complain(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n")
    listed = isinstance(error, click.MissingParameter)  # the possible values, one per line
    _complain(f"Error: {escape.terminal(error.format_message(), lines=listed)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    interrupts.listen()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal lacks, such as θ, must not fail a command whose work is done.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    status = run(arguments)
    interrupts.finished()
    sys.exit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    debug = os.environ.get("PERTURBIFY_DEBUG") == "1"
    try:
        if "" in (sys.argv[1:] if arguments is None else arguments):
            raise click.UsageError("An argument is empty.")  # usually an unset variable
        with interrupts.safe():
            return cli.main(args=arguments, prog_name="perturbify", standalone_mode=False) or 0
    except interrupts.Interrupted as error:
        return int(error.code or 0)
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except click.Abort:  # click's form of a KeyboardInterrupt
        _complain(f"Interrupted. {interrupts.NOTHING_LOST}")
        return 130
    except PerturbifyError as error:
        if debug:
            raise
        _complain(f"Error: {error.message}")
        if error.hint:
            _complain(f"Hint: {error.hint}")
        return 2 if isinstance(error, RecipeError) else 1
    except OSError as error:  # the system's errors about a name, a disk, or a pipe are not bugs
        if debug:
            raise
        what = "" if error.filename is None else f"{error.filename}: "
        _complain(f"Error: {_on_one_line(what + (error.strerror or str(error)))}.")
        return 1
    except MemoryError:
        if debug:
            raise
        _complain("Error: There is not enough memory for this.")
        return 1
    except Exception as error:
        if debug:
            raise
        _complain(f"Error: {type(error).__name__}: {_on_one_line(error)}")
        _complain(
            "Hint: This looks like a bug in perturbify, or in a plug-in of yours; PERTURBIFY_DEBUG=1 shows the "
            "traceback."
        )
        return 1
