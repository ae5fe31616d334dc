"""The result of a check: figures that each carry their n, interval, adversary, and draws."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from perturbify.checks.liveness import Liveness

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """Accuracy under one attack.

    Attributes:
        attack: Its name, such as ``"EOT-PGD-7"``.
        noise: ``"on"`` or ``"off"``, while crafting and while scoring; ``"off→on"`` for images crafted without noise
            and scored with it.
        n: Images.
        correct: Images classified rightly, each by one fresh draw of the noise that no attack step has seen.
        accuracy: ``correct / n``.
        interval: 95% Wilson interval of the accuracy, over images and draws.
        epsilon: Radius of the l∞ ball in pixels of [0, 1]; 0 for clean images.
        steps: Steps of the attack.
        step_size: Length of one, in pixels.
        draws: Draws of the noise that each step's gradient averages.
        seconds: Time it took.
    """

    attack: str
    noise: str
    n: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    epsilon: float
    steps: int
    step_size: float
    draws: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self) | {"interval": list(self.interval)}


@dataclass(frozen=True)
class Report:
    """A robustness report.

    Attributes:
        subject: What was checked.
        data: Name of the dataset.
        n: Test images.
        seed: Of every random number in the check.
        epsilon: Radius of the attacks, l∞, in pixels of [0, 1].
        liveness: Whether the noise is alive.
        rows: One for each attack and noise setting.
        machine: Versions, device and threads.
        about: Where the network comes from, as far as its checkpoint says.
    """

    subject: str
    data: str
    n: int
    seed: int
    epsilon: float
    liveness: Liveness
    rows: tuple[Row, ...]
    machine: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every criterion holds."""
        return not self.liveness.failures

    def summary(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "data": self.data,
            "n": self.n,
            "seed": self.seed,
            "epsilon": self.epsilon,
            "passed": self.passed,
            "rows": [{k: v for k, v in row.to_dict().items() if k != "seconds"} for row in self.rows],
        }

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        return {
            "schema": SCHEMA,
            "subject": self.subject,
            "data": self.data,
            "n": self.n,
            "seed": self.seed,
            "epsilon": self.epsilon,
            "norm": "linf",
            "scored_by": "one fresh draw of the noise an image",
            "deterministic": not self.liveness.sites,
            "noise": self.liveness.to_dict(),
            "passed": self.passed,
            "rows": [row.to_dict() for row in self.rows],
            "machine": self.machine,
            "about": self.about,
        }

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
