"""Certified robustness of PixelDP's networks: which l2 perturbations of an image cannot change its answer."""

from perturbify.certification.bounds import certified_radius, clopper_pearson
from perturbify.certification.certificate import Certificate, Progress, certify, certify_split, predict_certified
from perturbify.certification.mechanism import Mechanism, find_mechanism, verify
from perturbify.certification.operator_norm import convolution_norm

__all__ = [
    "Certificate",
    "Mechanism",
    "Progress",
    "certified_radius",
    "certify",
    "certify_split",
    "clopper_pearson",
    "convolution_norm",
    "find_mechanism",
    "predict_certified",
    "verify",
]
