"""Metrics for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from perturbify.errors import TrainingError


class Events:
    """Writes each epoch's metrics to a folder that TensorBoard reads.

    Args:
        folder: Where; events of an earlier part of the run may be there.

    Raises:
        TrainingError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "train.tensorboard needs TensorBoard, which is not installed.",
                "pip install 'perturbify[tensorboard]', or set it to false.",
            ) from error
        self._open = partial(SummaryWriter, str(folder))  # which makes the folder
        self._writer: Any = None

    def write(self, summary: dict[str, Any]) -> None:
        """Adds an epoch, a line of ``metrics.jsonl``."""
        self._writer = self._writer or self._open()
        for name, number in _numbers("", summary):
            if name != "epoch":
                self._writer.add_scalar(name, number, summary["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()


def _numbers(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number in nested dicts, by its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{prefix}/{key}" if prefix else key, inner)
    elif isinstance(value, int | float):
        yield prefix, value
