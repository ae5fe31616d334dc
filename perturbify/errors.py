"""Every error that perturbify raises on purpose, in one family.

::

    PerturbifyError
    ├── ModelError               a network that cannot be found, built, or fed
    │   ├── UnknownModel         no library has a model of that name
    │   ├── WeightsError         weights that cannot be fetched, read, or fitted to the model
    │   └── InputSizeError       an input of another size than an element-grained θ was made for
    ├── SurgeryError             a network that the pass cannot change rightly
    │   ├── NoConvolutions       nothing to put noise behind
    │   ├── AlreadyWrapped       the network has noise modules already
    │   ├── TraceError           a convolution inside of a forward that torch.fx cannot follow
    │   └── ParityError          with the noise off, the result differs from the source
    ├── MethodError              a defence that is not known, or does not suit a network
    ├── DataError                a dataset that cannot be found, read, or used
    ├── RecipeError              a recipe with mistakes; names all of them
    ├── CheckpointError          a file that is truncated, foreign, newer, or does not fit
    ├── OutputExists             an output that would overwrite something
    ├── WrongType                an argument of another type than a function takes; a TypeError, too
    ├── TrainingError            a run that cannot start or go on
    │   └── Diverged             a loss or θ that is no longer finite
    └── CheckError               a robustness check that cannot be run

Each carries one sentence that names the culprit and, in ``hint``, the way out. Both may name what a file or a command
line said, and are fit to be shown: on a terminal, too, and of bounded length.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from perturbify.escape import terminal

MOST_LINES = 50
"""Lines of a message of several that are shown."""


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
        """The message, fit to be shown."""
        return terminal(message)


class ModelError(PerturbifyError):
    """A network that cannot be found, built, or fed."""


class UnknownModel(ModelError):
    """No library has a model of that name."""


class WeightsError(ModelError):
    """Weights that cannot be fetched, read, or fitted to the model."""


class InputSizeError(ModelError):
    """An input of another size than an element-grained θ was made for."""


class SurgeryError(PerturbifyError):
    """A network that the pass cannot change rightly."""


class NoConvolutions(SurgeryError):
    """Nothing to put noise behind."""


class AlreadyWrapped(SurgeryError):
    """The network has noise modules already."""


class TraceError(SurgeryError):
    """A convolution inside of a forward that torch.fx cannot follow."""


class ParityError(SurgeryError):
    """With the noise off, the result differs from the source."""


class MethodError(PerturbifyError):
    """A defence that is not known, or does not suit a network."""


class DataError(PerturbifyError):
    """A dataset that cannot be found, read, or used."""


class RecipeError(PerturbifyError):
    """A recipe with mistakes; the message names them one a line, and says how many more there are than it shows."""

    @staticmethod
    def _fit(message: str) -> str:
        lines = message.split("\n")
        more = len(lines) - MOST_LINES
        if more > 1:  # never more than one line longer: a message that was cut is left as it is
            lines[MOST_LINES:] = [f"  … and {more:,} more"]
        return "\n".join(terminal(line, 500) for line in lines)


class CheckpointError(PerturbifyError):
    """A file that is truncated, foreign, newer, or does not fit."""


class OutputExists(PerturbifyError):
    """An output that would overwrite something."""


class WrongType(PerturbifyError, TypeError):
    """An argument of another type than a function takes."""


class TrainingError(PerturbifyError):
    """A run that cannot start or go on."""


class Diverged(TrainingError):
    """A loss or θ that is no longer finite."""


class CheckError(PerturbifyError):
    """A robustness check that cannot be run."""


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Says which known names come closest to a wrong one.

    Args:
        name: What was asked for.
        known: The names that exist.
        limit: How many to offer at most.

    Returns:
        A sentence such as ``"Did you mean 'resnet18' or 'resnet10t'?"``, or ``""`` when nothing is near.
    """
    by_lower = {k.lower(): k for k in known}
    hits = [by_lower[h] for h in difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.5)]
    if not hits:
        return ""
    return f"Did you mean {' or '.join(repr(h) for h in hits)}?"
