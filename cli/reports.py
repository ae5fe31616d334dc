"""A robustness report, as the commands show and keep it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbify.errors import CheckError, OutputExists, PerturbifyError

if TYPE_CHECKING:
    from perturbify.checks import Report


def alone(folder: Path) -> AbstractContextManager[None]:
    """Keeps other processes from keeping a check in a folder, inside a ``with`` block; torchrun's first one does it.

    Raises:
        CheckError: Another one is at it.
        PerturbifyError: The folder cannot be made or written to.
    """
    from perturbify import files

    if os.environ.get("RANK", "0") != "0":
        return nullcontext()
    return files.alone(folder, CheckError(f"Another process is at work in {folder} already.", "Choose another folder."))


def look(folder: Path, *, resume: bool, force: bool) -> list[Path]:
    """Makes sure, before any long work, that a check can be kept in a folder; each process of torchrun for itself.

    Args:
        folder: Where.
        resume: Whether to go on with what is there.
        force: Whether what is there may be replaced.

    Returns:
        What is to be removed for that.

    Raises:
        OutputExists: A check is there, and neither was said; or something else that would be lost.
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
    there = [path for path in own if os.path.lexists(path)]
    if not there or resume:
        return []
    if not force:
        raise OutputExists(f"{folder} holds a check already.", "Go on with it: --resume. Replace it: --force.")
    refuse_foreign(there)
    return there


def refuse_foreign(there: list[Path]) -> None:
    """Makes sure that files which are to be replaced are ours.

    Raises:
        OutputExists: One is not.
    """
    from perturbify.training.owned import is_ours

    foreign = next((path for path in there if not is_ours(path)), None)
    if foreign is not None:
        raise OutputExists(
            f"{foreign} is not as perturbify wrote it, so it is not removed.",
            "Move it elsewhere, or choose another folder.",
        )


def prepare(folder: Path, *, resume: bool, force: bool) -> None:
    """Removes what a check in a folder is to replace; arguments and errors are those of :func:`look`."""
    for path in look(folder, resume=resume, force=force):
        path.unlink()


def text(report: Report, width: int | None) -> str:
    """A report for a terminal of so many columns; None: with every column."""
    from perturbify.checks.render import to_text

    return to_text(report, width)


def write(report: Report, folder: Path) -> None:
    """Writes report.json, report.md and report.html; beside files of others that have these names."""
    from perturbify.checks.render import to_html, to_markdown
    from perturbify.files import signed, write_own
    from perturbify.training.owned import is_report

    write_own(folder / "report.json", report.to_json(), is_report)
    write_own(folder / "report.md", signed(to_markdown(report)))
    write_own(folder / "report.html", signed(to_html(report)))


def keep_figure(figure: Any, path: Path, *, dpi: int) -> None:
    """Writes a figure of matplotlib in the format that its file's name ends in; a PNG says that it is ours."""
    from perturbify.files import replace_atomically

    kind = path.suffix[1:]
    about = {"Software": "perturbify"} if kind == "png" else None
    replace_atomically(path, lambda p: figure.savefig(p, format=kind, dpi=dpi, metadata=about))


def embed(report: Report, file: Path) -> None:
    """Keeps a report's figures in a checkpoint's metadata and, in a run's folder, in the model card if it is ours."""
    from perturbify import checkpoint
    from perturbify.files import signed, write_own
    from perturbify.model_card import model_card
    from perturbify.training.folder import RunFolder

    header = checkpoint.annotate(file, check=report.summary())
    run = RunFolder(file.parent)
    if run.model == file and run.is_run:
        write_own(run.card, signed(model_card(header)))
