"""Measurements that are run by hand: ratios against named rivals, and what has to be seen on a GPU."""

import importlib.util
from pathlib import Path

import perturbify

# In a bare source tree, with nothing installed, these two rooms lie beside the package instead of inside of it.
if importlib.util.find_spec("perturbify.recipes") is None:
    perturbify.__path__.append(str(Path(__file__).parents[1]))
