"""A robustness report, as the commands show and save it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbify.errors import CheckError, OutputExists, PerturbifyError

if TYPE_CHECKING:
    from perturbify.checks import Report


def alone(folder: Path) -> AbstractContextManager[None]:
    """Locks a folder for one check, inside a ``with`` block; under torchrun, by the first process.

    Raises:
        CheckError: Another process has locked it.
        PerturbifyError: The folder cannot be made or written to.
    """
    from perturbify import files

    if os.environ.get("RANK", "0") != "0":
        return nullcontext()
    return files.alone(folder, CheckError(f"Another process is already at work in {folder}.", "Choose another folder."))


def look(folder: Path, *, resume: bool, force: bool) -> list[Path]:
    """Makes sure, before any long work, that a check can be saved in a folder; for each torchrun process.

    Args:
        folder: The folder.
        resume: Whether to resume a check found there.
        force: Whether a check found there may be replaced.

    Returns:
        The files to remove for that.

    Raises:
        OutputExists: The folder holds a check, and neither was set; or other files that would be lost.
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
    # Other torchrun processes may have started; each checks only what it would write itself.
    own = [folder / f"records-{os.environ.get('RANK', '0')}.jsonl"]
    if os.environ.get("RANK", "0") == "0":
        own += [folder / f"report.{kind}" for kind in ("json", "md", "html")]
    there = [path for path in own if os.path.lexists(path)]
    if not there or resume:
        return []
    if not force:
        raise OutputExists(f"{folder} already holds a check.", "Resume it: --resume. Replace it: --force.")
    refuse_foreign(there)
    return there


def refuse_foreign(there: list[Path]) -> None:
    """Makes sure that files to be replaced are perturbify's.

    Raises:
        OutputExists: One is not.
    """
    from perturbify.training.owned import is_ours

    foreign = next((path for path in there if not is_ours(path)), None)
    if foreign is not None:
        raise OutputExists(
            f"{foreign} was not written by perturbify, or was changed since, so it is not removed.",
            "Move it elsewhere, or choose another folder.",
        )


def prepare(folder: Path, *, resume: bool, force: bool) -> None:
    """Removes the files that a check in a folder replaces; arguments and errors as for :func:`look`."""
    for path in look(folder, resume=resume, force=force):
        path.unlink()


def text(report: Report, width: int | None) -> str:
    """A report for a terminal of this many columns; None: every column."""
    from perturbify.checks.render import to_text

    return to_text(report, width)


def write(report: Report, folder: Path) -> None:
    """Writes report.json, report.md and report.html; under other names next to a user's files of these names."""
    from perturbify.checks.render import to_html, to_markdown
    from perturbify.files import signed, write_own
    from perturbify.training.owned import is_report

    write_own(folder / "report.json", report.to_json(), is_report)
    write_own(folder / "report.md", signed(to_markdown(report)))
    write_own(folder / "report.html", signed(to_html(report)))


def keep_figure(figure: Any, path: Path, *, dpi: int) -> None:
    """Writes a matplotlib figure in the format of its file's ending; a PNG is marked as perturbify's."""
    from perturbify.files import replace_atomically

    kind = path.suffix[1:]
    about = {"Software": "perturbify"} if kind == "png" else None
    replace_atomically(path, lambda p: figure.savefig(p, format=kind, dpi=dpi, metadata=about))


def embed(report: Report, file: Path) -> None:
    """Saves a report's figures in a checkpoint's metadata and, in a run's folder, in a model card that is ours."""
    from perturbify import checkpoint
    from perturbify.files import signed, write_own
    from perturbify.model_card import model_card
    from perturbify.training.folder import RunFolder

    header = checkpoint.annotate(file, check=report.summary())
    run = RunFolder(file.parent)
    if run.model == file and run.is_run:
        write_own(run.card, signed(model_card(header)))
