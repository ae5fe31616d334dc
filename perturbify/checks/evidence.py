"""What speaks for or against believing a check, and the verdicts that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from perturbify.checks.statistics import wilson

Outcome = Literal["pass", "fail", "undecided", "not measured"]

Verdict = Literal["established", "failed", "not established"]

STATUS: dict[Verdict, int] = {"established": 0, "failed": 3, "not established": 4}
"""Exit status of a verdict."""


@dataclass(frozen=True)
class Evidence:
    """One figure that speaks for or against a criterion.

    Attributes:
        statement: What was compared, in words, without the figures.
        estimate: The figure: a difference of accuracies over the same images, an accuracy, or a share of images.
        interval: Its 95% interval; the figure twice where it is a count and no estimate.
        limit: What the figure must not exceed.
        tolerance: How far beyond counts as equal.
    """

    statement: str
    estimate: float
    interval: tuple[float, float]
    limit: float
    tolerance: float

    @property
    def outcome(self) -> Outcome:
        """``"pass"`` where the whole interval is at most limit + tolerance, ``"fail"`` where all of it is beyond."""
        bound = self.limit + self.tolerance
        if self.interval[1] <= bound:
            return "pass"
        return "fail" if self.interval[0] > bound else "undecided"


@dataclass(frozen=True)
class Criterion:
    """A reason to believe a check, or not to.

    Attributes:
        name: Such as ``"one step never beats many"``.
        why: What a failure would mean, in a sentence.
        evidence: The comparisons; none where what it takes was not measured.
        core: Whether nothing is established while it is open.
        detail: What was not measured, or a remark; may be empty.
    """

    name: str
    why: str
    evidence: tuple[Evidence, ...]
    core: bool = True
    detail: str = ""

    @property
    def outcome(self) -> Outcome:
        """``"fail"`` where any evidence fails, ``"pass"`` where there is some and all passes."""
        outcomes = {e.outcome for e in self.evidence}
        if not outcomes:
            return "not measured"
        if "fail" in outcomes:
            return "fail"
        return "pass" if outcomes == {"pass"} else "undecided"

    def to_dict(self) -> dict[str, Any]:
        """The criterion as JSON values, with the outcomes that follow from them."""
        evidence = [asdict(e) | {"interval": list(e.interval), "outcome": e.outcome} for e in self.evidence]
        return asdict(self) | {"outcome": self.outcome, "evidence": evidence}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Criterion:
        """Reads what :meth:`to_dict` made.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        evidence = tuple(
            Evidence(e["statement"], e["estimate"], _pair(e["interval"]), e["limit"], e["tolerance"])
            for e in values["evidence"]
        )
        return cls(values["name"], values["why"], evidence, values["core"], values["detail"])


def fraction(statement: str, bad: object, *, most: float) -> Evidence:
    """The share of images of which something bad is true, as a sample of all images.

    Args:
        statement: What is true of them.
        bad: For each image, whether it is; shape (n,).
        most: The greatest share that still passes.
    """
    hits = np.asarray(bad, dtype=bool)
    return Evidence(statement, float(hits.mean()), wilson(int(hits.sum()), len(hits)), 0.0, most)


def never(statement: str, bad: object) -> Evidence:
    """The share of images of which something is true that must not be true of any; a count, not an estimate.

    Args:
        statement: What is true of them.
        bad: For each image, whether it is; shape (n,).
    """
    estimate = float(np.asarray(bad, dtype=bool).mean())
    return Evidence(statement, estimate, (estimate, estimate), 0.0, 0.0)


def verdict(criteria: tuple[Criterion, ...]) -> Verdict:
    """What all criteria together say.

    Returns:
        ``"failed"`` where one fails; ``"established"`` where there are core criteria and each passes; else ``"not
        established"``.
    """
    if any(c.outcome == "fail" for c in criteria):
        return "failed"
    core = [c.outcome for c in criteria if c.core]
    return "established" if core and set(core) == {"pass"} else "not established"


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
