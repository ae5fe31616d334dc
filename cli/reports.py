"""A robustness report, as the commands show and keep it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from perturbify.errors import OutputExists, PerturbifyError

if TYPE_CHECKING:
    from perturbify.checks import Report


def prepare(folder: Path, *, resume: bool, force: bool) -> None:
    """Makes sure, before any long work, that a check can be kept in a folder; each process of torchrun for itself.

    Args:
        folder: Where.
        resume: Whether to go on with what is there.
        force: Whether what is there may be replaced.

    Raises:
        OutputExists: A check is there, and neither was said.
        PerturbifyError: The folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PerturbifyError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Choose another one."
        ) from error
    if not os.access(folder, os.W_OK):
        raise PerturbifyError(f"The folder {folder} cannot be written to.", "Choose another one.")
    # Others of torchrun's processes may have begun; each looks at what it would write itself.
    own = [folder / f"records-{os.environ.get('RANK', '0')}.jsonl"]
    if os.environ.get("RANK", "0") == "0":
        own += [folder / f"report.{kind}" for kind in ("json", "md", "html")]
    there = [path for path in own if path.exists()]
    if there and not (resume or force):
        raise OutputExists(f"{folder} holds a check already.", "Go on with it: --resume. Replace it: --force.")
    if force and not resume:
        for path in there:
            path.unlink()


def text(report: Report) -> str:
    """A report for the terminal."""
    from perturbify.checks.render import to_text

    return to_text(report)


def write(report: Report, folder: Path) -> None:
    """Writes report.json, report.md and report.html."""
    from perturbify.checks.render import to_html, to_markdown
    from perturbify.files import write_text

    write_text(folder / "report.json", report.to_json())
    write_text(folder / "report.md", to_markdown(report))
    write_text(folder / "report.html", to_html(report))


def embed(report: Report, file: Path) -> None:
    """Keeps a report's figures in a checkpoint's metadata and, in a run's folder, in the model card."""
    from perturbify import checkpoint
    from perturbify.files import write_text
    from perturbify.model_card import model_card
    from perturbify.training.folder import RunFolder

    header = checkpoint.annotate(file, check=report.summary())
    run = RunFolder(file.parent)
    if run.model == file and run.recipe.exists():
        write_text(run.card, model_card(header))
