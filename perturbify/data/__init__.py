"""Images in, batches of pixels in [0, 1] out: built-in sets, files of the user's own, and what timm reads."""

from perturbify.data.augmentation import augment
from perturbify.data.bundle import Data
from perturbify.data.folders import DEFAULT_SIZE
from perturbify.data.sources import dataset_names, load
from perturbify.data.split import Split

__all__ = ["DEFAULT_SIZE", "Data", "Split", "augment", "dataset_names", "load"]
