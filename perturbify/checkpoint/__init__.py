"""The checkpoint: one sealed safetensors file that holds the whole model. docs/checkpoint.md is its contract."""

from perturbify.checkpoint.building import build, fill, restore
from perturbify.checkpoint.container import Contents
from perturbify.checkpoint.files import annotate, describe, read, read_header, save, unique_tensors
from perturbify.checkpoint.header import Header

__all__ = [
    "Contents",
    "Header",
    "annotate",
    "build",
    "describe",
    "fill",
    "read",
    "read_header",
    "restore",
    "save",
    "unique_tensors",
]
