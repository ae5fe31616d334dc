"""Evidence for or against trusting a check's figures, and the verdicts that follow."""

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
    """One figure for or against a criterion.

    Attributes:
        statement: What was compared, in words, without the figures.
        estimate: A difference of accuracies over the same images, an accuracy, or a share of images.
        interval: Its 95% interval; for a count, the figure twice.
        limit: What the figure must not exceed.
        tolerance: How far beyond the limit still counts as equal.
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
    """A reason to trust a check, or not to.

    Attributes:
        name: Such as ``"one step never beats many"``.
        why: What a failure would mean, in a sentence.
        evidence: The comparisons; empty if they were not measured.
        core: Whether no figure can be established while it is open.
        detail: What was not measured, or a remark; may be empty.
    """

    name: str
    why: str
    evidence: tuple[Evidence, ...]
    core: bool = True
    detail: str = ""

    @property
    def outcome(self) -> Outcome:
        """``"fail"`` if any evidence fails, ``"pass"`` if there is some and all of it passes."""
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
    """The share of images with a defect, as an estimate for all images.

    Args:
        statement: The images with the defect, in words.
        bad: For each image, whether it has the defect; shape (n,).
        most: The greatest share that still passes.
    """
    hits = np.asarray(bad, dtype=bool)
    return Evidence(statement, float(hits.mean()), wilson(int(hits.sum()), len(hits)), 0.0, most)


def never(statement: str, bad: object) -> Evidence:
    """The share of images with a defect that no image may have; a count, not an estimate.

    Args:
        statement: The images with the defect, in words.
        bad: For each image, whether it has the defect; shape (n,).
    """
    estimate = float(np.asarray(bad, dtype=bool).mean())
    return Evidence(statement, estimate, (estimate, estimate), 0.0, 0.0)


def verdict(criteria: tuple[Criterion, ...]) -> Verdict:
    """The verdict that follows from all criteria.

    Returns:
        ``"failed"`` if one fails, ``"established"`` if there are core criteria and all pass, else
        ``"not established"``.
    """
    if any(c.outcome == "fail" for c in criteria):
        return "failed"
    core = [c.outcome for c in criteria if c.core]
    return "established" if core and set(core) == {"pass"} else "not established"


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
