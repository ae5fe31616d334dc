"""Robustness checks: can the gradients be trusted, how often is the network right under attack, what does it prove?"""

from perturbify.checks.cases import Case
from perturbify.checks.estimate import Estimate
from perturbify.checks.evaluate import Progress
from perturbify.checks.evidence import Criterion, Evidence
from perturbify.checks.plan import PRESETS, CheckPlan, preset
from perturbify.checks.report import Headline, Report
from perturbify.checks.results import Figure, Result
from perturbify.checks.run import check
from perturbify.checks.verification import Verification, verify

__all__ = [
    "PRESETS",
    "Case",
    "CheckPlan",
    "Criterion",
    "Estimate",
    "Evidence",
    "Figure",
    "Headline",
    "Progress",
    "Report",
    "Result",
    "Verification",
    "check",
    "preset",
    "verify",
]
