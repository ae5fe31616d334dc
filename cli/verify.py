"""``perturbify verify``: is a file what it says it is, and is its noise alive?"""

from __future__ import annotations

import click

from perturbify.cli.console import Console
from perturbify.cli.options import output_options


@click.command(short_help="Prove that a file is what it claims.")
@click.argument("file", metavar="FILE|RUN", type=click.Path())
@click.option("--trust-factory", is_flag=True, help="Run the factory that FILE names, if you trust it.")
@output_options
def verify(file: str, trust_factory: bool, as_json: bool, quiet: bool) -> None:
    """Prove that FILE was not changed since it was written, has the noise sites it claims, and is noisy at each.

    RUN stands for the model of a finished run. The network is built and run on random pixels; no images are needed.
    Robustness is not measured; `check` does that. Exit status 0: all of it is proved; 3: noise is dead; 4: something
    could not be proved, such as the seal of an earlier version's file; 1: the file is damaged, was changed, or
    contradicts itself.

    \b
      perturbify verify model.safetensors
    """
    from perturbify.cli import models

    file = models.file_of(file)

    from perturbify.checks import verify as prove

    console = Console(quiet=quiet, as_json=as_json)
    with console.aside():
        found = prove(file, trust_factory=trust_factory)
    console.result(str(found), found.to_dict())
    click.get_current_context().exit(found.status)
