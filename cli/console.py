"""What goes to the terminal: results to stdout, log and progress to stderr; whatever it is, it steers no terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

import click

from perturbify import escape
from perturbify.text import duration, percent, table

if TYPE_CHECKING:
    from perturbify import census, certification, checks
    from perturbify.training.metrics import Progress


def say(text: str, *, err: bool = False) -> None:
    """Prints lines; what is foreign in them has been made fit before, so that here the line breaks are ours."""
    click.echo(escape.terminal(text, None, lines=True), err=err)


class Console:
    """A command's way to speak; of several processes that torchrun started, the first one speaks.

    Args:
        quiet: No log and no progress.
        as_json: Results as JSON.
    """

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.first = os.environ.get("RANK", "0") == "0"
        self.quiet = quiet or not self.first
        self.as_json = as_json

    def log(self, message: str) -> None:
        """One line for the reader, on stderr; a line break at its beginning ends a line that moved."""
        if not self.quiet:
            line = message.removeprefix("\n")
            with suppress(OSError):  # a log that cannot be written is no reason to lose the work
                say(("\n" if line != message else "") + escape.terminal(line), err=True)

    def result(self, text: str, values: Any) -> None:
        """The command's result, on stdout: text for people, with nothing foreign unfit in it, or its values as JSON."""
        if self.first:
            say(escape.json(values) if self.as_json else text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Sends what libraries and a user's own modules print to the log: stdout carries the result alone."""
        with redirect_stdout(io.StringIO() if self.quiet else sys.stderr):
            yield

    @contextmanager
    def training(self) -> Iterator[Callable[[Progress], None]]:
        """Shows the progress of a run: a line that moves on a terminal, and a line an epoch."""
        with self._moving_line() as move:

            def show(p: Progress) -> None:
                move(_step_line(p))
                if p.epoch_summary is not None:
                    move("")
                    self.log(_epoch_line(p))

            yield show

    @contextmanager
    def checking(self) -> Iterator[Callable[[checks.Progress], None]]:
        """Shows the progress of a check: a line that moves on a terminal, and a line an attack."""
        with self._moving_line() as move:

            def show(p: checks.Progress) -> None:
                left = f"{duration(p.seconds_left)} left"
                move(f"checking: {p.case}, {p.done} of {p.total} batches, {left}")
                if p.done == p.total:
                    move("")
                    self.log(f"checked: {p.case}, {left}")

            yield show

    @contextmanager
    def certifying(self) -> Iterator[Callable[[certification.Progress], None]]:
        """Shows the progress of a certification: a line that moves on a terminal, and a line a batch."""
        with self._moving_line() as move:
            logged = 0

            def show(p: certification.Progress) -> None:
                nonlocal logged
                left = f"{p.done} of {p.total} images, {duration(p.seconds_left)} left"
                move(f"certifying: {left}")
                if p.done > logged:
                    logged = p.done
                    move("")
                    self.log(f"certified: {left}")

            yield show

    @contextmanager
    def counting(self) -> Iterator[Callable[[census.Progress], None]]:
        """Shows the progress of a census: a line that moves on a terminal, and a line a model."""
        with self._moving_line() as move:

            def show(p: census.Progress) -> None:
                move("")
                found = f"{p.row.output} output, {p.row.inner} inner, {p.row.graph} graph, {p.row.skipped} skipped"
                self.log(f"{p.row.name}: {p.row.status}, {p.row.error or found}, {duration(p.row.seconds)}")
                move(f"{p.done} of {p.total} models, {duration(p.seconds_left)} left")

            yield show

    @contextmanager
    def _moving_line(self) -> Iterator[Callable[[str], None]]:
        """A line on stderr that every call writes anew; where there is no terminal, nothing."""
        moving = not self.quiet and sys.stderr.isatty()

        def move(text: str) -> None:
            if moving:
                click.echo(f"\r\033[K{escape.terminal(text)}", err=True, nl=False)

        try:
            with self.aside():
                yield move
        finally:
            move("")


def metrics_table(metrics: list[dict[str, Any]]) -> str:
    """A run's epochs as people read them: at most 20, evenly spaced, with the first and the last."""
    last = len(metrics) - 1
    chosen = sorted({round(i * last / 19) for i in range(20)}) if last > 19 else range(last + 1)
    head = ("epoch (from 0)", "clean loss", "clean %", "adversarial loss", "adversarial %", "θ mean", "θ min", "θ max")
    rows: list[tuple[str, ...]] = [head]
    for m in (metrics[i] for i in chosen):
        theta = m["theta"] or {"mean": None, "min": None, "max": None}
        rows.append(
            (
                str(m["epoch"]),
                f"{m['clean_loss']:.3f}",
                percent(m["clean_accuracy"]),
                _number(m["adversarial_loss"]),
                "–" if m["adversarial_accuracy"] is None else percent(m["adversarial_accuracy"]),
                *(_number(theta[k]) for k in ("mean", "min", "max")),
            )
        )
    return table(rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _step_line(p: Progress) -> str:
    attacked = "" if p.adversarial_loss is None else f", adversarial {p.adversarial_loss:.3f}"
    return (
        f"epoch {p.epoch + 1}/{p.epochs}, {p.phase} {p.step + 1}/{p.steps}, loss {p.clean_loss:.3f}{attacked}, "
        f"{p.images_per_second:.0f} images/s, {duration(p.seconds_left)} left"
    )


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
