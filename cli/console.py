"""Output: results to stdout, log and progress to stderr; no text can control the terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

import click

from perturbify import escape
from perturbify.cli import terminal
from perturbify.text import duration, percent, table

if TYPE_CHECKING:
    from perturbify import census, certification, checks
    from perturbify.training.metrics import Progress

WIDE = "perturbify.wide"
"""Key in a command's context: whether tables keep all their columns."""


def say(text: str, *, err: bool = False, fitting: bool = True) -> None:
    """Prints lines; foreign text in them was escaped before, so the line breaks are our own.

    Args:
        text: The lines.
        err: Whether they go to stderr.
        fitting: Whether to wrap them between words on a terminal.
    """
    stream = sys.stderr if err else sys.stdout
    shown = escape.terminal(text, None, lines=True)
    if fitting and stream.isatty():
        shown = terminal.wrapped(shown, terminal.width())
    with terminal.bars_away(stream):
        click.echo(terminal.coloured(shown, stream), err=err)


class Console:
    """A command's output; under torchrun, only the first process writes.

    Args:
        quiet: No log and no progress.
        as_json: Results as JSON.
    """

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.first = os.environ.get("RANK", "0") == "0"
        self.quiet = quiet or not self.first
        self.as_json = as_json

    @property
    def width(self) -> int | None:
        """The most columns of a table; None: no limit (``--wide``)."""
        context = click.get_current_context(silent=True)
        return None if context is not None and context.meta.get(WIDE) else terminal.width()

    def log(self, message: str) -> None:
        """Prints one line on stderr."""
        if not self.quiet:
            with suppress(OSError):  # the work must not be lost for a log line
                say(escape.terminal(message), err=True)

    def result(self, text: str, values: Any, *, verbatim: bool = False) -> None:
        """Prints the command's result on stdout.

        Args:
            text: For people; foreign text in it is escaped.
            values: The same for ``--json``.
            verbatim: Whether long lines are kept whole, for text to be copied.
        """
        if self.first:
            fitting = not (verbatim or self.as_json or self.width is None)
            say(escape.json(values) if self.as_json else text, fitting=fitting)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Sends what libraries and the user's modules print to the log: stdout carries only the result."""
        with redirect_stdout(io.StringIO() if self.quiet else sys.stderr):
            yield

    @contextmanager
    def training(self) -> Iterator[Callable[[Progress], None]]:
        """Shows a run's progress: a bar on a terminal, and a line per epoch."""
        with self._bar("step") as bar:
            begun = False

            def show(p: Progress) -> None:
                nonlocal begun
                if not (bar.live or begun):
                    self.log(f"first step done, {duration(p.seconds_left)} left")
                begun = True
                what = f"epoch {p.epoch + 1}/{p.epochs} {p.phase}"
                bar.show(what, p.epoch * p.steps + p.step + 1, p.epochs * p.steps, p.seconds_left, _step(p))
                if p.epoch_summary is not None:
                    self.log(_epoch_line(p))

            yield show

    @contextmanager
    def checking(self) -> Iterator[Callable[[checks.Progress], None]]:
        """Shows a check's progress: a bar on a terminal, and a line per attack."""
        with self._bar("batch") as bar:

            def show(p: checks.Progress) -> None:
                bar.show(p.case, p.batch, p.batches, p.seconds_left)
                if p.done == p.total:
                    self.log(f"checked: {p.case}, {duration(p.seconds_left)} left")

            yield show

    @contextmanager
    def certifying(self) -> Iterator[Callable[[certification.Progress], None]]:
        """Shows a certification's progress: a bar on a terminal, else a line per batch."""
        with self._bar("image") as bar:
            logged = 0

            def show(p: certification.Progress) -> None:
                nonlocal logged
                bar.show("certifying", p.done, p.total, p.seconds_left)
                if p.done > logged and not bar.live:
                    self.log(f"certified: {p.done} of {p.total} images, {duration(p.seconds_left)} left")
                logged = p.done

            yield show

    @contextmanager
    def counting(self) -> Iterator[Callable[[census.Progress], None]]:
        """Shows a census's progress: a bar on a terminal, and a line per model."""
        with self._bar("model") as bar:

            def show(p: census.Progress) -> None:
                found = f"{p.row.output} output, {p.row.inner} inner, {p.row.graph} graph, {p.row.skipped} skipped"
                self.log(f"{p.row.name}: {p.row.status}, {p.row.error or found}, {duration(p.row.seconds)}")
                bar.show("census", p.done, p.total, p.seconds_left)

            yield show

    @contextmanager
    def _bar(self, unit: str) -> Iterator[terminal.Bar]:
        """A bar for a block; what the block prints goes to the log."""
        bar = terminal.Bar(unit, shown=not self.quiet)
        try:
            with self.aside():
                yield bar
        finally:
            bar.close()


def metrics_table(metrics: list[dict[str, Any]], width: int | None = None) -> str:
    """A table of a run's epochs: at most 20, evenly spaced, with the first and the last.

    ``width`` is as for :func:`perturbify.text.table`.
    """
    last = len(metrics) - 1
    chosen = sorted({round(i * last / 19) for i in range(20)}) if last > 19 else range(last + 1)
    head = ("epoch", "clean loss", "clean %", "adversarial loss", "adversarial %", "θ mean", "θ min", "θ max")
    rows: list[tuple[str, ...]] = [head]
    for m in (metrics[i] for i in chosen):
        theta = m["theta"] or {"mean": None, "min": None, "max": None}
        rows.append(
            (
                str(m["epoch"] + 1),
                f"{m['clean_loss']:.3f}",
                percent(m["clean_accuracy"]),
                _number(m["adversarial_loss"]),
                "–" if m["adversarial_accuracy"] is None else percent(m["adversarial_accuracy"]),
                *(_number(theta[k]) for k in ("mean", "min", "max")),
            )
        )
    return table(rows, width, ("θ min", "θ max", "clean loss", "adversarial loss", "θ mean"))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _step(p: Progress) -> str:
    adversarial = "" if p.adversarial_loss is None else f", adversarial {p.adversarial_loss:.3f}"
    return f" loss {p.clean_loss:.3f}{adversarial}"


def _epoch_line(p: Progress) -> str:
    m = p.epoch_summary
    assert m is not None
    attacked = "" if m["adversarial_loss"] is None else f", adversarial {_number(m['adversarial_loss'])}"
    theta = "" if m["theta"] is None else f", θ {m['theta']['mean']:.3f}"
    loss = f"loss {m['clean_loss']:.3f} ({percent(m['clean_accuracy'])}%)"
    return (
        f"epoch {p.epoch + 1}/{p.epochs}: {loss}{attacked}{theta}, "
        f"{m['images_per_second']:.0f} images/s, {duration(p.seconds_left)} left"
    )
