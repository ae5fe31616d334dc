"""Every error that perturbify raises on purpose, in one family.

::

    PerturbifyError
    ├── ModelError               a network that cannot be found, built, or fed
    │   ├── UnknownModel         no library has a model of that name
    │   ├── WeightsError         weights that cannot be fetched, read, or fitted to the model
    │   └── InputSizeError       an input of a different size than an element-grained θ was made for
    ├── SurgeryError             a network that the pass cannot wrap correctly
    │   ├── NoConvolutions       nothing to put noise behind
    │   ├── AlreadyWrapped       the network already has noise modules
    │   ├── TraceError           a convolution in a forward that torch.fx cannot trace
    │   └── ParityError          with the noise off, the result differs from the source
    ├── MethodError              a defence that is unknown, or does not suit a network
    ├── DataError                a dataset that cannot be found, read, or used
    ├── RecipeError              a recipe with mistakes; names all of them
    ├── CheckpointError          a file that is truncated, foreign, newer, or does not fit
    ├── OutputExists             an output that would overwrite something
    ├── WrongType                an argument of another type than a function takes; a TypeError, too
    ├── TrainingError            a run that cannot start or resume
    │   └── Diverged             a loss or θ that is no longer finite
    └── CheckError               a robustness check that cannot be run

Each carries one sentence that names the culprit and, in ``hint``, the way out. Both may quote a file or a command line,
and are safe to display, also on a terminal, and of bounded length.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from perturbify.escape import terminal

MOST_LINES = 50
"""Maximum number of lines shown of a multi-line message."""


class PerturbifyError(Exception):
    """Base of the family.

    Args:
        message: One sentence that names the culprit.
        hint: One sentence that names the way out, if there is one.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = self._fit(message)
        self.hint = None if hint is None else terminal(hint)
        super().__init__(self.message if hint is None else f"{self.message} {self.hint}")

    def __reduce__(self) -> tuple[type[PerturbifyError], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)

    @staticmethod
    def _fit(message: str) -> str:
        """The message, safe to display."""
        return terminal(message)


class ModelError(PerturbifyError):
    """A network that cannot be found, built, or fed."""


class UnknownModel(ModelError):
    """No library has a model of that name."""


class WeightsError(ModelError):
    """Weights that cannot be fetched, read, or fitted to the model."""


class InputSizeError(ModelError):
    """An input of a different size than an element-grained θ was made for."""


class SurgeryError(PerturbifyError):
    """A network that the pass cannot wrap correctly."""


class NoConvolutions(SurgeryError):
    """Nothing to put noise behind."""


class AlreadyWrapped(SurgeryError):
    """The network already has noise modules."""


class TraceError(SurgeryError):
    """A convolution in a forward that torch.fx cannot trace."""


class ParityError(SurgeryError):
    """With the noise off, the result differs from the source."""


class MethodError(PerturbifyError):
    """A defence that is unknown, or does not suit a network."""


class DataError(PerturbifyError):
    """A dataset that cannot be found, read, or used."""


class RecipeError(PerturbifyError):
    """A recipe with mistakes; the message lists them one per line, and counts those not shown."""

    @staticmethod
    def _fit(message: str) -> str:
        lines = message.split("\n")
        more = len(lines) - MOST_LINES
        if more > 1:  # idempotent: a truncated message is left as it is
            lines[MOST_LINES:] = [f"  … and {more:,} more"]
        return "\n".join(terminal(line, 500) for line in lines)


class CheckpointError(PerturbifyError):
    """A file that is truncated, foreign, newer, or does not fit."""


class OutputExists(PerturbifyError):
    """An output that would overwrite something."""


class WrongType(PerturbifyError, TypeError):
    """An argument of another type than a function takes."""


class TrainingError(PerturbifyError):
    """A run that cannot start or resume."""


class Diverged(TrainingError):
    """A loss or θ that is no longer finite."""


class CheckError(PerturbifyError):
    """A robustness check that cannot be run."""


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Suggests the known names closest to a wrong one.

    Args:
        name: What was asked for.
        known: The names that exist.
        limit: Maximum number of suggestions.

    Returns:
        A sentence such as ``"Did you mean 'resnet18' or 'resnet10t'?"``, or ``""`` when nothing is near.
    """
    by_lower = {k.lower(): k for k in known}
    hits = [by_lower[h] for h in difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.5)]
    if not hits:
        return ""
    return f"Did you mean {' or '.join(repr(h) for h in hits)}?"
