"""Benchmarks that are run by hand: ratios to named baselines, and checks that need a GPU."""

import importlib.util
from pathlib import Path

import perturbify

# In a bare source tree, with nothing installed, these two folders are next to the package instead of inside it.
if importlib.util.find_spec("perturbify.recipes") is None:
    perturbify.__path__.append(str(Path(__file__).parents[1]))
