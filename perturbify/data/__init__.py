"""Images in, batches of pixels in [0, 1] out: built-in datasets, the user's own files, and what timm reads."""

from perturbify.data.augmentation import augment
from perturbify.data.bundle import Data, suited
from perturbify.data.given import as_data, as_test
from perturbify.data.sources import dataset_names, load
from perturbify.data.split import Split

__all__ = ["Data", "Split", "as_data", "as_test", "augment", "dataset_names", "load", "suited"]
