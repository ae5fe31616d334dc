"""Robustness checks: is the noise alive, and how often is the network right under attack."""

from perturbify.checks.report import Report, Row
from perturbify.checks.suite import CheckPlan, check

__all__ = ["CheckPlan", "Report", "Row", "check"]
