"""Is a file what it says it is? Its seal, its noise sites, and noise that is alive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from perturbify import checkpoint
from perturbify.arguments import check_network, check_path
from perturbify.checkpoint.header import Header
from perturbify.checks.liveness import Liveness, examine
from perturbify.display import lines, some
from perturbify.escape import terminal
from perturbify.generators import seeded
from perturbify.methods.wrapping import for_file
from perturbify.text import counted

Outcome = Literal["proved", "failed", "not proved"]
STATUS: dict[Outcome, int] = {"proved": 0, "failed": 3, "not proved": 4}


@dataclass(frozen=True)
class Verification:
    """What was found out about a file.

    Attributes:
        header: The file's description of itself, which its tensors do not contradict.
        sealed: Whether it has a seal, which then is valid.
        liveness: What two forward passes of its network on random pixels showed; None if it was not run.
        unseen: Why it was not run.
    """

    header: Header
    sealed: bool
    liveness: Liveness | None
    unseen: str = ""

    @property
    def failures(self) -> list[str]:
        """Defects, one sentence each."""
        return [] if self.liveness is None else self.liveness.failures

    @property
    def open_questions(self) -> list[str]:
        """What could not be proved, one sentence each."""
        found = []
        if not self.sealed:
            found.append(f"no seal: format {self.header.format} has none, so a change cannot be detected")
        if self.liveness is None:
            found.append(f"sites and noise: {self.unseen}")
        return found

    @property
    def outcome(self) -> Outcome:
        """``"failed"`` if noise is dead, ``"not proved"`` if something is open, else ``"proved"``."""
        return "failed" if self.failures else "not proved" if self.open_questions else "proved"

    @property
    def status(self) -> int:
        """The exit status: 0 proved, 3 failed, 4 not proved."""
        return STATUS[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return {
            "outcome": self.outcome,
            "status": self.status,
            "sealed": self.sealed,
            "format": self.header.format,
            "sites": len(self.header.sites),
            "noise": None if self.liveness is None else self.liveness.to_dict(),
            "failures": self.failures,
            "open": self.open_questions,
        }

    def __repr__(self) -> str:
        return lines(
            f"Verification: {self.outcome}",
            [
                ("file", f"{self.header.source_class}, {counted(len(self.header.sites), 'site')}"),
                ("failed", some(self.failures, len(self.failures), 1)),
                ("open", some(self.open_questions, len(self.open_questions), 1)),
            ],
            "print(verification) shows everything",
        )

    def __str__(self) -> str:
        live = self.liveness
        noise = "not tried"
        if live is not None:
            alive = f"alive at all of them, {counted(live.perturbed, 'call')} in a forward pass"
            noise = "none: a baseline" if not live.sites else "; ".join(live.failures) or alive
        built = "not tried" if live is None else f"{len(self.header.sites)}, as the network built here has them"
        lines = [
            f"seal   {'holds' if self.sealed else 'none'}",
            f"sites  {built}",
            f"noise  {noise}",
            *(f"open   {question}" for question in self.open_questions),
            "",
            self.outcome,
        ]
        return "\n".join(map(terminal, lines))


def verify(path: str | Path, *, model: nn.Module | None = None, trust_factory: bool = False) -> Verification:
    """Proves that a checkpoint is sealed, has the noise sites it says, and is noisy at each of them.

    The seal shows that nothing was changed since the file was written; it does not show who wrote it.

    Args:
        path: A file that :func:`perturbify.save` wrote.
        model: The source network, where the file does not know how to build it.
        trust_factory: As for :func:`perturbify.load`.

    Raises:
        CheckpointError: The file is missing, damaged, changed, or contradicts itself or its network.
        ModelError, SurgeryError: Its network cannot be built or wrapped here.
    """
    check_path(path, "verify", "a file", "Give that of what perturbify.save(network, path) wrote.")
    if model is not None:
        check_network(model)
    path = Path(path)
    header, contents = checkpoint.read(path)
    if header.model is None and model is None:
        unseen = f"the file does not say how to build its network, {header.source_class}"
        return Verification(header, contents.sealed, None, unseen)
    restored = checkpoint.restore(header, contents, path, model, for_method=for_file, trust_factory=trust_factory)
    if not restored.ran:
        unseen = "its feature maps are far larger than its weights, so its network was not run"
        return Verification(header, contents.sealed, None, unseen)
    args, kwargs = header.example()
    with seeded(0):
        return Verification(header, contents.sealed, examine(restored.network, *args, **kwargs))
