"""The tables of the Learn2Perturb paper reproduced: trained, checked, and printed beside the paper's figures."""

from perturbify.reproduction.job import Job, Reproduction, jobs
from perturbify.reproduction.run import Outcome, Watcher, reproduce

__all__ = ["Job", "Outcome", "Reproduction", "Watcher", "jobs", "reproduce"]
