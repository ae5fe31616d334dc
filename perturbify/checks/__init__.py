"""Robustness checks: is the noise alive, how often is the network right under attack, and can that be believed."""

from perturbify.checks.bench import Progress
from perturbify.checks.estimate import Estimate
from perturbify.checks.plan import FAMILIES, PRESETS, CheckPlan
from perturbify.checks.report import Criterion, Evidence, Report, Row
from perturbify.checks.suite import check

__all__ = [
    "FAMILIES",
    "PRESETS",
    "CheckPlan",
    "Criterion",
    "Estimate",
    "Evidence",
    "Progress",
    "Report",
    "Row",
    "check",
]
